"""Events that the scheduler writes: every later event of a ``job:<id>`` stream."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct

from libs.contracts.base import (
    ArtifactFile,
    Cents,
    Count,
    Epoch,
    Event,
    LongText,
    ObjectKey,
    Sha256,
    ShortText,
    Step,
)
from libs.contracts.results import RunResult

FailureCode = Literal[
    "retries_exhausted",
    "invalid_dataset",
    "model_load_failed",
    "out_of_memory",
    "training_diverged",
    "parity_gate_failed",
    "artifact_rejected",
    "internal_error",
]


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A durable checkpoint archive in the object store."""

    step: Step
    key: ObjectKey
    sha256: Sha256
    size_bytes: Count
    tokens_processed: Count


class JobLeased(Event, frozen=True, kw_only=True, tag="job.leased.v1"):
    """A trainer took the job; ``epoch`` is the fencing token of this attempt."""

    epoch: Epoch
    trainer_id: ShortText


class JobStarted(Event, frozen=True, kw_only=True, tag="job.started.v1"):
    """The training process of this attempt began; from here on the job is running."""

    epoch: Epoch
    trainer_id: ShortText
    device: ShortText
    steps_total: Step
    resumed_from_step: Step


class JobCheckpointed(Event, frozen=True, kw_only=True, tag="job.checkpointed.v1"):
    epoch: Epoch
    checkpoint: Checkpoint


class JobReclaimed(Event, frozen=True, kw_only=True, tag="job.reclaimed.v1"):
    """The attempt was lost, or ``handed_back`` in order; the job is queued again and resumes from
    the last checkpoint that isn't among ``lost_checkpoints``: keys of files that a restored
    installation no longer has.

    ``retries`` counts the attempts that were lost, as far as they count against the job: at the
    sixth it fails. ``interruptions`` counts how often it was taken up again for any reason, which
    is what the job object calls its `retries`; null in an event of a release that held each of
    them against the job."""

    epoch: Epoch
    reason: ShortText
    retries: Count
    lost_checkpoints: tuple[ObjectKey, ...] = ()
    handed_back: bool = False
    interruptions: Count | None = None


class JobCancelRequested(Event, frozen=True, kw_only=True, tag="job.cancel_requested.v1"):
    """The owner asked to stop a running job; the trainer learns of it by its heartbeat."""

    epoch: Epoch


class JobTrained(Event, frozen=True, kw_only=True, tag="job.trained.v1"):
    """The trainer is done and has uploaded its files; artifact now verifies them."""

    epoch: Epoch
    result: RunResult
    files: tuple[ArtifactFile, ...]


class JobCompleted(Event, frozen=True, kw_only=True, tag="job.completed.v1"):
    """Terminal. ``charge_cents`` is the price of the steps that were taken, of a job that stopped
    early; null: the whole price."""

    tokens_processed: Count
    artifacts_expires_at: datetime
    charge_cents: Cents | None = None


class JobFailed(Event, frozen=True, kw_only=True, tag="job.failed.v1"):
    """Terminal. ``message`` says what happened and what the user can change."""

    code: FailureCode
    message: LongText


class JobCancelled(Event, frozen=True, kw_only=True, tag="job.cancelled.v1"):
    """Terminal. ``charge_cents`` is the price of the tokens that were processed, 0 if never run."""

    tokens_processed: Count
    charge_cents: Cents


class JobRetentionExtended(Event, frozen=True, kw_only=True, tag="job.retention_extended.v1"):
    """The files of a completed job are kept longer; ``extension_id`` is the purchase."""

    extension_id: UUID
    artifacts_expires_at: datetime
