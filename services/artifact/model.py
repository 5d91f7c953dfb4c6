"""Who may read and write which objects, and whether a result is what its trainer said. Pure."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from msgspec import Struct

from libs.contracts.artifact import (
    ArtifactEvent,
    ArtifactPublished,
    ArtifactRejected,
    DeletionReason,
)
from libs.contracts.base import ArtifactFile
from libs.jobstate.checkpoints import KEPT_FOR
from libs.jobstate.state import ENDED, JobState

RETENTION = timedelta(days=7)
"""How long a result is kept after completion (contract, section 7)."""

LEFTOVERS_GRACE = timedelta(hours=2)
"""How long after the end of a job a trainer may still be uploading: a link that it was given begins
a transfer within an hour, and the transfer may take as long again."""

EXPIRY_MARGIN = timedelta(hours=2)
"""A download that began with the last link of an hour has ended by then. So has any process that
adds an extension or submits a job on the model, after it has looked at the expiry."""

ARCHIVE = "archive"
"""The role of the one file that holds all others, as the Runs API hands it out."""

ARCHIVE_NAME = "artifacts.tar.gz"
ARCHIVE_LINK = timedelta(minutes=30)
FILE_LINK = timedelta(hours=1)

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Safe as one segment of a key and as a file on any disk: no separators, never hidden or ``..``."""


class BadFileName(ValueError):
    """A trainer asked to store a file under a name that is no plain file name."""


class Stored(Struct, frozen=True, kw_only=True):
    """What the object store really holds under a key."""

    size_bytes: int
    sha256: str


def artifact_stream(job_id: UUID) -> str:
    return f"artifact:{job_id}"


def holds_lease(state: JobState | None, epoch: int) -> bool:
    """Whether the attempt ``epoch`` may act for the job now."""
    return state is not None and state.leased and state.epoch == epoch and state.status not in ENDED


def upload_key(job_id: UUID, epoch: int, name: str) -> str:
    """Each attempt has a folder of its own, so a lost one can't overwrite its successor's files."""
    if not _FILE_NAME.fullmatch(name):
        raise BadFileName(
            f"{name!r}: use letters, digits, dots, dashes and underscores, at most 128, "
            "beginning with a letter or digit"
        )
    return f"jobs/{job_id}/{epoch}/{name}"


def belongs(key: str, job_id: UUID) -> bool:
    """Whether `upload_key` could have made this key for the job."""
    match key.split("/"):
        case ["jobs", owner, epoch, name]:
            return owner == str(job_id) and epoch.isdecimal() and bool(_FILE_NAME.fullmatch(name))
        case _:
            return False


def judge(
    job_id: UUID,
    files: Sequence[ArtifactFile],
    found: Mapping[str, Stored],
    *,
    now: datetime,
) -> ArtifactEvent:
    """Publish a result whose every file is stored as stated; ``found`` is by key.

    A result has exactly one archive: without it a completed run could not be downloaded.
    """
    if sum(file.role == ARCHIVE for file in files) != 1:
        return ArtifactRejected(reason=f"the result needs exactly one file of role {ARCHIVE!r}")
    for file in files:
        if fault := _fault(job_id, file, found.get(file.key)):
            return ArtifactRejected(reason=f"{file.name}: {fault}")
    return ArtifactPublished(files=tuple(files), expires_at=now + RETENTION)


def _fault(job_id: UUID, file: ArtifactFile, stored: Stored | None) -> str | None:
    if not belongs(file.key, job_id):
        return f"its key {file.key} is not one of this job's"
    if stored is None:
        return f"nothing is stored under {file.key}"
    if stored.size_bytes != file.size_bytes:
        return f"{stored.size_bytes} bytes are stored, the trainer named {file.size_bytes}"
    if stored.sha256 != file.sha256:
        return f"the stored SHA-256 is {stored.sha256}, the trainer named {file.sha256}"
    return None


def downloadable(state: JobState | None, *, now: datetime) -> bool:
    """A completed job whose artifacts have not expired."""
    return (
        state is not None
        and state.status == "completed"
        and state.artifacts_expires_at is not None
        and now < state.artifacts_expires_at
    )


class Deletion(Struct, frozen=True, kw_only=True):
    """Files that go at ``at``: those of the job's folder but ``keep``, and the data set's."""

    reason: DeletionReason
    at: datetime
    keep: frozenset[str] = frozenset()
    dataset_key: str | None = None


def deletions(state: JobState, *, paid_days: int = 0) -> list[Deletion]:
    """What becomes of an ended job's files, in order; nothing before it has ended.

    ``paid_days`` are those of extensions that were paid, and that the job does not have yet. The
    last checkpoints of a completed job go with its result, those of another after a week. A run's
    data set was uploaded for it alone, and goes with its artifacts; when there are none, as late as
    they would have gone.
    """
    if state.finished_at is None:
        return []
    dataset_key = state.dataset.key if state.dataset and state.surface == "runs" else None
    leftovers = Deletion(
        reason="ended",
        at=state.finished_at + LEFTOVERS_GRACE,
        keep=frozenset(
            [
                *(file.key for file in state.files if state.status == "completed"),
                *(kept.checkpoint.key for kept in state.checkpoints),
            ]
        ),
    )
    if state.artifacts_expires_at is not None:
        kept_until = state.artifacts_expires_at + timedelta(days=paid_days) + EXPIRY_MARGIN
    elif state.checkpoints:
        kept_until = state.finished_at + KEPT_FOR + EXPIRY_MARGIN
    elif dataset_key is not None:
        kept_until = state.finished_at + RETENTION
    else:
        return [leftovers]
    return [leftovers, Deletion(reason="expired", at=kept_until, dataset_key=dataset_key)]


def folder(job_id: UUID) -> str:
    """Where the files of all attempts lie."""
    return f"jobs/{job_id}/"
