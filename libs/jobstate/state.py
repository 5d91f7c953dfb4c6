"""The job as its events make it: ``fold`` is pure, and the only place where a status changes."""

from datetime import datetime
from functools import reduce
from typing import assert_never
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from libs.contracts.base import (
    ArtifactFile,
    Cents,
    DatasetRef,
    JobStatus,
    JobType,
    ModelRef,
    ObjectKey,
    Surface,
)
from libs.contracts.billing import PaidBy
from libs.contracts.events import JobEvent
from libs.contracts.gateway import JobSubmitted
from libs.contracts.results import RunResult
from libs.contracts.scheduler import (
    Checkpoint,
    FailureCode,
    JobCancelled,
    JobCancelRequested,
    JobCheckpointed,
    JobCompleted,
    JobFailed,
    JobLeased,
    JobReclaimed,
    JobRetentionExtended,
    JobStarted,
    JobTrained,
)
from libs.contracts.training import (
    ContractParams,
    FinetuneParams,
    Hyperparams,
    TrainParams,
    the_one,
)
from libs.eventlog.read import Stored
from libs.eventlog.record import JobRow
from libs.jobstate import interruptions
from libs.jobstate.checkpoints import KeptCheckpoint, after_one_more, kept_until

ENDED: frozenset[JobStatus] = frozenset({"completed", "failed", "cancelled"})


class JobState(Struct, frozen=True, kw_only=True):
    """Everything the platform knows of one job. ``epoch`` is 0 until the first lease.

    ``leased`` is true while an attempt may act for the job, ``trained`` once its files wait to be
    verified. ``charge_cents`` is what it costs in the end; null until then. ``extensions`` are the
    purchases of longer storage that ``artifacts_expires_at`` includes. ``checkpoint`` is what a
    next attempt begins with, ``checkpoints`` are those that are kept, oldest first.
    """

    id: UUID
    account_id: UUID
    version: int
    type: JobType
    surface: Surface
    status: JobStatus
    model: ModelRef
    dataset: DatasetRef | None
    params: FinetuneParams | None
    label: str | None
    output_name: str | None
    output_model_id: UUID
    priority: bool
    price_cents: Cents
    currency: str
    plan_name: str | None
    tokens_planned: int
    created_at: datetime
    train_params: TrainParams | None = None
    contract_params: ContractParams | None = None
    traceparent: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retries: int = 0
    epoch: int = 0
    leased: bool = False
    trainer_id: str | None = None
    steps_total: int | None = None
    cancel_requested: bool = False
    trained: bool = False
    checkpoint: Checkpoint | None = None
    result: RunResult | None = None
    files: tuple[ArtifactFile, ...] = ()
    artifacts_expires_at: datetime | None = None
    tokens_processed: int = 0
    charge_cents: int | None = None
    failure_code: FailureCode | None = None
    failure_message: str | None = None
    extensions: tuple[UUID, ...] = ()
    paid_by: PaidBy = "balance"
    validation: DatasetRef | None = None
    start_from: Checkpoint | None = None
    recommended: tuple[str, ...] = ()
    checkpoints: tuple[KeptCheckpoint, ...] = ()
    interrupted: interruptions.Known = UNSET

    @property
    def last_step(self) -> int:
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def losses(self) -> int:
        """Of its ``retries``, those that count against the job."""
        return interruptions.losses_of(self.interrupted, self.retries)

    @property
    def got_further(self) -> bool:
        """Whether there is a later checkpoint than at the last interruption."""
        return interruptions.got_further(self.interrupted, self.retries, self.last_step)

    @property
    def hyperparams(self) -> Hyperparams:
        return the_one(self.params, self.train_params, self.contract_params)

    def checkpoints_at(self, now: datetime) -> tuple[KeptCheckpoint, ...]:
        """Those that can still be downloaded and begun with, newest first."""
        until = kept_until(self.finished_at, self.artifacts_expires_at)
        return () if until is not None and until <= now else self.checkpoints[::-1]


def job_stream(job_id: UUID) -> str:
    return f"job:{job_id}"


def submitted(
    event: JobSubmitted, *, job_id: UUID, account_id: UUID, at: datetime, traceparent: str | None
) -> JobState:
    """The state after the first event; ``traceparent`` is the one recorded with it."""
    return JobState(
        id=job_id,
        account_id=account_id,
        version=1,
        type=event.job_type,
        surface=event.surface,
        status="queued",
        model=event.model,
        dataset=event.dataset,
        params=event.params,
        train_params=event.train_params,
        contract_params=event.contract_params,
        label=event.label,
        output_name=event.output_name,
        output_model_id=event.output_model_id,
        priority=event.priority,
        price_cents=event.price_cents,
        currency=event.currency,
        plan_name=event.plan_name,
        tokens_planned=event.tokens_planned,
        created_at=at,
        traceparent=traceparent,
        paid_by=event.paid_by,
        validation=event.validation,
        start_from=event.start_from,
        recommended=event.recommended,
    )


def fold(state: JobState, event: JobEvent, at: datetime) -> JobState:
    """The state after one more event that happened at ``at`` (UTC)."""
    state = replace(state, version=state.version + 1)
    match event:
        case JobSubmitted():
            raise ValueError(f"job {state.id} was submitted twice")
        case JobLeased():
            return replace(state, epoch=event.epoch, trainer_id=event.trainer_id, leased=True)
        case JobStarted():
            return replace(
                state,
                status="running",
                started_at=state.started_at or at,
                steps_total=event.steps_total,
            )
        case JobCheckpointed():
            return replace(
                state,
                checkpoint=event.checkpoint,
                checkpoints=after_one_more(state.checkpoints, event.checkpoint, at),
                tokens_processed=event.checkpoint.tokens_processed,
            )
        case JobReclaimed():
            return _reclaimed(state, event)
        case JobCancelRequested():
            return replace(state, cancel_requested=True)
        case JobTrained():
            return replace(
                state,
                trained=True,
                leased=False,
                result=event.result,
                files=event.files,
                tokens_processed=event.result.tokens_processed,
            )
        case JobCompleted() | JobFailed() | JobCancelled():
            return _ended(replace(state, finished_at=at), event)
        case JobRetentionExtended():
            return replace(
                state,
                artifacts_expires_at=event.artifacts_expires_at,
                extensions=(*state.extensions, event.extension_id),
            )
        case _:
            assert_never(event)


def _reclaimed(state: JobState, event: JobReclaimed) -> JobState:
    after = replace(state, status="queued", leased=False, trainer_id=None)
    if event.lost_checkpoints:
        after = without(after, event.lost_checkpoints)
    steps = (state.last_step, after.last_step)
    retries, known = interruptions.after_one_more(state.interrupted, state.retries, event, steps)
    return replace(after, retries=retries, interrupted=known)


def _ended(state: JobState, event: JobCompleted | JobFailed | JobCancelled) -> JobState:
    match event:
        case JobCompleted():
            charge = state.price_cents if event.charge_cents is None else event.charge_cents
            return replace(
                state,
                status="completed",
                artifacts_expires_at=event.artifacts_expires_at,
                tokens_processed=event.tokens_processed,
                charge_cents=charge,
            )
        case JobFailed():
            return replace(
                state,
                status="failed",
                leased=False,
                charge_cents=0,
                failure_code=event.code,
                failure_message=event.message,
            )
        case JobCancelled():
            return replace(
                state,
                status="cancelled",
                leased=False,
                tokens_processed=event.tokens_processed,
                charge_cents=event.charge_cents,
            )
        case _:
            assert_never(event)


def without(state: JobState, lost: tuple[ObjectKey, ...]) -> JobState:
    """With the last checkpoint that is not lost as the one to begin with, or none."""
    there = tuple(one for one in state.checkpoints if one.checkpoint.key not in lost)
    last = there[-1].checkpoint if there else None
    return replace(
        state,
        checkpoint=last,
        checkpoints=there,
        tokens_processed=last.tokens_processed if last else 0,
    )


def state_of(events: list[Stored[JobEvent]], *, job_id: UUID, account_id: UUID) -> JobState:
    """Fold a whole stream. Raises ValueError when it does not begin with a submission."""
    first, *later = events
    if not isinstance(first.event, JobSubmitted):
        raise ValueError(f"job {job_id} does not begin with its submission")
    state = submitted(
        first.event,
        job_id=job_id,
        account_id=account_id,
        at=first.meta.occurred_at,
        traceparent=first.meta.traceparent,
    )
    return reduce(lambda s, e: fold(s, e.event, e.meta.occurred_at), later, state)


decode_state = msgspec.json.Decoder(JobState).decode


def row_of(state: JobState) -> JobRow:
    """The read-model row that is written in the transaction of the append."""
    return JobRow(
        id=state.id,
        account_id=state.account_id,
        surface=state.surface,
        status=state.status,
        version=state.version,
        created_at=state.created_at,
        state=msgspec.json.encode(state),
        output_model_id=state.output_model_id,
    )
