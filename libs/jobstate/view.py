"""The job object of the public contract, made from the folded state alone. Pure."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from libs.contracts.base import JobStatus, JobType, Surface
from libs.contracts.scheduler import Checkpoint
from libs.jobstate.hyperparams import JobHyperparams, hyperparams_view
from libs.jobstate.state import JobState


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


def failure_of(state: JobState) -> Failure | None:
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
        last_checkpoint_step=state.last_step,
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
        error=failure_of(state),
    )
