"""Which checkpoints of a job are kept, and for how long."""

from datetime import datetime, timedelta

from msgspec import Struct

from libs.contracts.scheduler import Checkpoint

KEPT = 3
"""The newest ones: a job that got worse at its end can be taken up before that, and a model of
eight billion parameters with its optimizer is a hundred gigabytes each time."""

KEPT_FOR = timedelta(days=7)
"""After the end of a job that failed or was cancelled; as long as a result is kept at first. Those
of a completed job stay as long as its files."""


class KeptCheckpoint(Struct, frozen=True, kw_only=True):
    """A checkpoint, and when it was reported."""

    checkpoint: Checkpoint
    created_at: datetime


def after_one_more(
    kept: tuple[KeptCheckpoint, ...], checkpoint: Checkpoint, at: datetime
) -> tuple[KeptCheckpoint, ...]:
    """The kept ones, oldest first, when another was written."""
    return (*kept, KeptCheckpoint(checkpoint=checkpoint, created_at=at))[-KEPT:]


def kept_until(
    finished_at: datetime | None, artifacts_expires_at: datetime | None
) -> datetime | None:
    """None as long as the job has not ended."""
    if artifacts_expires_at is not None or finished_at is None:
        return artifacts_expires_at
    return finished_at + KEPT_FOR
