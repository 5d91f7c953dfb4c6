"""Events that artifact writes: the ``artifact:<job id>`` streams."""

from datetime import datetime
from typing import Literal

from libs.contracts.base import ArtifactFile, Count, Event, LongText

DeletionReason = Literal["ended", "expired"]


class ArtifactPublished(Event, frozen=True, kw_only=True, tag="artifact.published.v1"):
    """Every file is in the object store with the size and SHA-256 that the trainer named."""

    files: tuple[ArtifactFile, ...]
    expires_at: datetime


class ArtifactRejected(Event, frozen=True, kw_only=True, tag="artifact.rejected.v1"):
    """A file is missing or is not what the trainer said; the job fails rather than ships."""

    reason: LongText


class ArtifactDeleted(Event, frozen=True, kw_only=True, tag="artifact.deleted.v1"):
    """Files of a job are gone for good: ``files`` of them, ``size_bytes`` together.

    ``ended``: what was left of the work; the result and the last checkpoints stay.
    ``expired``: everything else that was kept of the job.
    """

    reason: DeletionReason
    files: Count
    size_bytes: Count


ArtifactEvent = ArtifactPublished | ArtifactRejected | ArtifactDeleted
