"""This trainer, as its attempts know it."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from uuid import UUID

from msgspec import Struct


class Site(Struct, frozen=True, kw_only=True):
    """Who it is, its folders, and where its time and ids come from."""

    trainer_id: str
    work_dir: Path
    models_dir: Path
    threads: int
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
