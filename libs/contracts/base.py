"""The words every message shares: bounded scalars, statuses, and the frozen event base.

Every string and integer that reaches PostgreSQL is bounded here, so that a value that passes
decoding can also be stored.
"""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

JobType = Literal["train", "finetune", "contract"]
Surface = Literal["runs", "jobs"]
JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]
DatasetKind = Literal["messages", "prompt_completion", "instruction", "text", "preference"]

MAX_CENTS = 10**12
Cents = Annotated[int, Meta(ge=0, le=MAX_CENTS)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Step = Annotated[int, Meta(ge=0, le=10**9)]
Epoch = Annotated[int, Meta(ge=1, le=10**6)]
Days = Annotated[int, Meta(ge=1, le=3650)]
ShortText = Annotated[str, Meta(max_length=255)]
LongText = Annotated[str, Meta(max_length=4000)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ObjectKey = Annotated[str, Meta(min_length=1, max_length=900)]


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What happened. Subclasses set ``tag="noun.verb.v1"``; a new meaning is a new tag."""


class Envelope(Struct, frozen=True, kw_only=True):
    """A stored event as it travels on NATS: where it stands in its stream, and its bytes.

    ``data`` is the JSON of one `Event`, tag included, exactly as the log holds it.
    ``occurred_at`` is UTC. ``causation_id`` is the event or report that led to this one.
    """

    event_id: UUID
    position: Count
    stream: ShortText
    version: Count
    type: ShortText
    job_id: UUID
    account_id: UUID
    occurred_at: datetime
    causation_id: UUID | None
    traceparent: ShortText | None
    data: msgspec.Raw


class ModelSource(Struct, frozen=True, kw_only=True):
    """Where weights come from: a folder under the models directory, an S3 prefix, or a hub repo.

    A prefix is a folder, unless it ends with a dash: then it is how the names of the files begin.
    """

    kind: Literal["local", "s3", "hub"]
    location: ShortText
    revision: ShortText | None = None

    @property
    def prefix(self) -> str:
        """How the keys of its files begin in the object store; what follows is their names."""
        place = self.location
        return place if place.endswith("-") else place.rstrip("/") + "/"

    @property
    def maker(self) -> UUID | None:
        """The job among whose files it lies; None for one that an operator has put there."""
        match self.location.split("/"):
            case ["jobs", job_id, *_] if self.kind == "s3":
                return UUID(job_id)
            case _:
                return None


class ModelRef(Struct, frozen=True, kw_only=True):
    """The base model of a job, as the catalogue had it when the job was submitted. ``adapter`` is a
    LoRA adapter of the account's own (peft's format) that the work begins with, on top of it."""

    id: UUID
    slug: ShortText
    params: Count
    source: ModelSource
    adapter: ModelSource | None = None


class DatasetRef(Struct, frozen=True, kw_only=True):
    """A validated data set in the object store. ``tokens`` is an estimate: UTF-8 bytes / 4."""

    id: UUID
    key: ObjectKey
    sha256: Sha256
    size_bytes: Count
    rows: Count
    tokens: Count
    kind: DatasetKind


class ArtifactFile(Struct, frozen=True, kw_only=True):
    """One file of a result; ``role``: ``archive`` (the tar.gz), ``adapter``, ``config``, ..."""

    name: ShortText
    role: ShortText
    key: ObjectKey
    size_bytes: Count
    sha256: Sha256
