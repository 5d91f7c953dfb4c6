"""A job as its owner sees it, on both surfaces. Made from the folded state alone."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

from libs.contracts.base import JobStatus, JobType, Surface
from libs.contracts.results import RunResult
from libs.contracts.scheduler import Checkpoint
from libs.jobstate.state import JobState
from services.gateway.hyperparams import JobHyperparams, hyperparams_view

CENTS = 100


class Failure(Struct, frozen=True):
    """Why a job failed. ``code`` is for programs; more may be added."""

    code: str
    message: str


class ModelName(Struct, frozen=True):
    """The model that a job works on, as the catalogue had it at submission."""

    id: UUID
    slug: str


class StartedFrom(Struct, frozen=True):
    """The checkpoint of another job that the work began with."""

    job_id: UUID
    step: int


class JobView(Struct, frozen=True, kw_only=True):
    """The job object. ``output_model_id`` is null until the job has completed.

    ``retries`` counts how often it was taken up again after an interruption, from
    ``last_checkpoint_step``: no fault of the job's. ``price_cents`` was agreed at submission,
    ``charge_cents`` is what was taken, null until the job has ended. ``steps_total`` and
    ``tokens_planned`` are the whole work, ``tokens_processed`` what is done of it.
    ``recommended`` names the hyperparameters that nobody asked for: they are what
    `POST /v1/training/recommend` says for the model and the data set.
    ``surface`` is the API that it came in by. ``artifacts_expires_at`` is when its files go.
    """

    id: UUID
    type: JobType
    status: JobStatus
    retries: int
    last_checkpoint_step: int
    output_model_id: UUID | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    surface: Surface
    base_model: ModelName
    dataset_id: UUID | None
    output_name: str | None
    label: str | None
    hyperparams: JobHyperparams
    recommended: list[str]
    validation_dataset_id: UUID | None
    start_from: StartedFrom | None
    steps_total: int
    tokens_planned: int
    tokens_processed: int
    priority_processing: bool
    cancel_requested: bool
    price_cents: int
    charge_cents: int | None
    currency: str
    artifacts_expires_at: datetime | None
    error: Failure | None


class RunCreated(Struct, frozen=True, kw_only=True):
    """An accepted run. ``price_cents`` has been taken from the balance."""

    run_id: UUID
    status: JobStatus
    price_cents: int
    currency: str
    balance_after_cents: int
    plan_name: str | None


class RunItem(Struct, frozen=True, kw_only=True):
    """A run in a list. ``model_id`` is the catalogue's slug."""

    run_id: UUID
    status: JobStatus
    model_id: str
    created_at: datetime
    artifacts_available: bool
    artifacts_expires_at: datetime | None
    label: str | None


class RunDetail(Struct, frozen=True, kw_only=True):
    """A run. ``completed_at`` is null unless it completed; ``finished_at`` is when it ended,
    however it did."""

    run_id: UUID
    status: JobStatus
    model_id: str
    label: str | None
    plan: str | None
    price_cents: int
    currency: str
    priority_processing: bool
    retries: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    finished_at: datetime | None
    artifacts_available: bool
    artifacts_expires_at: datetime | None
    error: Failure | None


class RunEnvelope(Struct, frozen=True):
    """One run."""

    run: RunDetail


class ResultView(RunResult, frozen=True, kw_only=True):
    """The headline result with what it cost. ``cost_usd`` is derived from ``charge_cents``."""

    job_id: UUID
    cost_usd: float
    charge_cents: int
    currency: str


def _failure(state: JobState) -> Failure | None:
    if state.failure_code is None:
        return None
    return Failure(state.failure_code, state.failure_message or "")


def started_from(checkpoint: Checkpoint | None) -> StartedFrom | None:
    """Whose it is stands in its key."""
    if checkpoint is None:
        return None
    return StartedFrom(UUID(checkpoint.key.split("/")[1]), checkpoint.step)


def job_view(state: JobState) -> JobView:
    return JobView(
        id=state.id,
        type=state.type,
        status=state.status,
        retries=state.retries,
        last_checkpoint_step=state.checkpoint.step if state.checkpoint else 0,
        output_model_id=state.output_model_id if state.status == "completed" else None,
        created_at=state.created_at,
        started_at=state.started_at,
        finished_at=state.finished_at,
        surface=state.surface,
        base_model=ModelName(state.model.id, state.model.slug),
        dataset_id=state.dataset.id if state.dataset else None,
        output_name=state.output_name,
        label=state.label,
        hyperparams=hyperparams_view(state.hyperparams),
        recommended=list(state.recommended),
        validation_dataset_id=state.validation.id if state.validation else None,
        start_from=started_from(state.start_from),
        steps_total=state.steps_total or state.hyperparams.planned_steps,
        tokens_planned=state.tokens_planned,
        tokens_processed=state.tokens_processed,
        priority_processing=state.priority,
        cancel_requested=state.cancel_requested,
        price_cents=state.price_cents,
        charge_cents=state.charge_cents,
        currency=state.currency,
        artifacts_expires_at=state.artifacts_expires_at,
        error=_failure(state),
    )


def downloadable(state: JobState, now: datetime) -> bool:
    """Completed, and its files are still kept."""
    expires_at = state.artifacts_expires_at
    return state.status == "completed" and expires_at is not None and expires_at > now


def run_item(state: JobState, now: datetime) -> RunItem:
    return RunItem(
        run_id=state.id,
        status=state.status,
        model_id=state.model.slug,
        created_at=state.created_at,
        artifacts_available=downloadable(state, now),
        artifacts_expires_at=state.artifacts_expires_at,
        label=state.label,
    )


def run_detail(state: JobState, now: datetime) -> RunDetail:
    return RunDetail(
        run_id=state.id,
        status=state.status,
        model_id=state.model.slug,
        label=state.label,
        plan=state.plan_name,
        price_cents=state.price_cents,
        currency=state.currency,
        priority_processing=state.priority,
        retries=state.retries,
        created_at=state.created_at,
        started_at=state.started_at,
        completed_at=state.finished_at if state.status == "completed" else None,
        finished_at=state.finished_at,
        artifacts_available=downloadable(state, now),
        artifacts_expires_at=state.artifacts_expires_at,
        error=_failure(state),
    )


def result_view(state: JobState) -> ResultView | None:
    """None until the job has completed."""
    if state.status != "completed" or state.result is None:
        return None
    charged = state.charge_cents or 0
    return ResultView(
        job_id=state.id,
        cost_usd=charged / CENTS,
        charge_cents=charged,
        currency=state.currency,
        **asdict(state.result),
    )
