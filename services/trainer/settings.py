"""What the trainer's environment says. It holds no secrets but its NATS password."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from libs.contracts.base import Count, ShortText
from libs.settings import PREFIX, SettingsError

Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")]
"""What Kubernetes takes as the value of a label."""


class Settings(Struct, frozen=True, kw_only=True):
    """``work_dir`` is this trainer's own: what a killed process left there is swept at start.

    ``memory_bytes`` is what a job may use; without it, the machine's memory.

    ``launcher`` says what runs a job: a ``subprocess`` of this one; ``torchrun``, with
    ``processes`` on each of ``nodes`` machines (default: one a GPU, or one), this one at
    ``node_address``; or ``trainjob``, as a TrainJob of the ``runtime``, queued in the LocalQueue
    ``queue`` of Kueue, owned by the pod ``trainer_id`` whose uid is ``pod_uid``.
    """

    nats_url: str
    trainer_id: ShortText
    work_dir: str
    models_dir: str
    threads: Annotated[int, Meta(ge=1, le=512)] = 2
    memory_bytes: Count | None = None
    nats_ca: Path | None = None
    log_level: str = "info"
    probe_listen: str | None = None
    launcher: Literal["subprocess", "torchrun", "trainjob"] = "subprocess"
    processes: Annotated[int, Meta(ge=1, le=64)] | None = None
    nodes: Annotated[int, Meta(ge=1, le=1000)] = 1
    node_address: ShortText | None = None
    queue: Label | None = None
    pod_uid: Label | None = None
    runtime: Label = "training"
    kubernetes_api: str = "https://kubernetes.default.svc"
    kubernetes_credentials: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def needed(value: str | None, field: str, launcher: str) -> str:
    """What a launcher can't do without. Raises SettingsError naming what to set."""
    if value is None:
        name = f"{PREFIX}{field.upper()}"
        raise SettingsError(f"{PREFIX}LAUNCHER={launcher} needs {name}; set it in the environment.")
    return value
