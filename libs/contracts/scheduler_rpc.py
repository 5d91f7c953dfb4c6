"""Questions that the scheduler answers: to trainers, and to the gateway."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct

from libs.contracts.base import (
    Count,
    DatasetRef,
    Days,
    Epoch,
    JobType,
    ModelRef,
    ShortText,
    Step,
)
from libs.contracts.rpc import Rpc
from libs.contracts.scheduler import Checkpoint
from libs.contracts.training import ContractParams, FinetuneParams, TrainParams


class LeaseRequest(Struct, frozen=True, kw_only=True):
    """A trainer that does nothing asks for work. Idempotent: a grant whose answer was lost is
    given again. ``last_epoch`` of ``last_job_id`` is the attempt it has just ended, whose report
    may not have been read yet. A new ``instance_id`` under a known ``trainer_id`` means that the
    former process is gone, so what it held is reclaimed at once."""

    trainer_id: ShortText
    instance_id: UUID
    memory_bytes: Count
    last_job_id: UUID | None = None
    last_epoch: Epoch | None = None


class LeaseGranted(Struct, frozen=True, kw_only=True, tag="granted"):
    """``epoch`` is the fencing token: every report and heartbeat of this attempt carries it."""

    job_id: UUID
    account_id: UUID
    epoch: Epoch
    lease_seconds: float
    job_type: JobType
    model: ModelRef
    dataset: DatasetRef | None
    params: FinetuneParams | None
    checkpoint: Checkpoint | None
    traceparent: ShortText | None
    train_params: TrainParams | None = None
    contract_params: ContractParams | None = None
    validation: DatasetRef | None = None
    start_from: Checkpoint | None = None


class NoWork(Struct, frozen=True, kw_only=True, tag="no_work"):
    retry_after_seconds: float


class Heartbeat(Struct, frozen=True, kw_only=True):
    trainer_id: ShortText
    job_id: UUID
    epoch: Epoch
    step: Step
    tokens_processed: Count


class HeartbeatAnswer(Struct, frozen=True, kw_only=True):
    """``lost``: the lease belongs to somebody else, stop at once and report nothing."""

    verdict: Literal["continue", "cancel", "lost"]


class CancelJob(Struct, frozen=True, kw_only=True):
    """Idempotent: cancelling a cancelled job answers with its state."""

    job_id: UUID


class Cancelling(Struct, frozen=True, kw_only=True, tag="cancelling"):
    status: ShortText


class AlreadyEnded(Struct, frozen=True, kw_only=True, tag="already_ended"):
    status: ShortText


class ExtendRetention(Struct, frozen=True, kw_only=True):
    """Keep a completed job's files longer, as was paid. Idempotent by ``extension_id``."""

    job_id: UUID
    extension_id: UUID
    days: Days


class RetentionExtended(Struct, frozen=True, kw_only=True):
    """``artifacts_expires_at`` is the job's expiry with every extension added so far."""

    artifacts_expires_at: datetime


LEASE: Rpc[LeaseRequest, LeaseGranted | NoWork] = Rpc(
    "scheduler", "lease", LeaseRequest, LeaseGranted | NoWork
)
HEARTBEAT: Rpc[Heartbeat, HeartbeatAnswer] = Rpc(
    "scheduler", "heartbeat", Heartbeat, HeartbeatAnswer
)
CANCEL: Rpc[CancelJob, Cancelling | AlreadyEnded] = Rpc(
    "scheduler", "cancel", CancelJob, Cancelling | AlreadyEnded
)
EXTEND_RETENTION: Rpc[ExtendRetention, RetentionExtended] = Rpc(
    "scheduler", "extend_retention", ExtendRetention, RetentionExtended
)
