"""What the trainer's environment says. It holds no secrets but its NATS password."""

from typing import Annotated

from msgspec import Meta, Struct

from libs.contracts.base import Count, ShortText


class Settings(Struct, frozen=True, kw_only=True):
    """``work_dir`` is this trainer's own: what a killed process left there is swept at start.

    ``memory_bytes`` is what a job may use; without it, the machine's memory.
    """

    nats_url: str
    trainer_id: ShortText
    work_dir: str
    models_dir: str
    threads: Annotated[int, Meta(ge=1, le=512)] = 2
    memory_bytes: Count | None = None
    log_level: str = "info"
    probe_listen: str | None = None
