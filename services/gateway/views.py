"""A job as its owner sees it, on both surfaces. Made from the folded state alone."""

from datetime import datetime
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from libs.contracts.base import JobStatus, JobType, Surface
from libs.contracts.results import RunResult
from libs.contracts.training import (
    ContractionStrategy,
    FinetuneMethod,
    GrowthStrategy,
    Hyperparams,
)
from libs.jobstate.state import JobState

CENTS = 100


class Failure(Struct, frozen=True):
    """Why a job failed. ``code`` is for programs; more may be added."""

    code: str
    message: str


class ModelName(Struct, frozen=True):
    """The model that a job works on, as the catalogue had it at submission."""

    id: UUID
    slug: str


class JobHyperparams(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job trains with, every default filled in. Only what its type has is there, under the
    names that a submission takes."""

    method: FinetuneMethod | UnsetType = UNSET
    strategy: GrowthStrategy | ContractionStrategy | UnsetType = UNSET
    trainable: str | UnsetType = UNSET
    steps: int | UnsetType = UNSET
    lora_rank: int | UnsetType = UNSET
    lora_alpha: float | UnsetType = UNSET
    target_modules: tuple[str, ...] | UnsetType | None = UNSET
    use_rslora: bool | UnsetType = UNSET
    beta: float | UnsetType = UNSET
    merged_model: bool | UnsetType = UNSET
    patience: int | UnsetType | None = UNSET
    turns: int | UnsetType = UNSET
    cycles: int | UnsetType = UNSET
    steps_per_cycle: int | UnsetType = UNSET
    layers_per_cycle: int | UnsetType = UNSET
    contraction_ratio: float | UnsetType = UNSET
    num_layers_to_contract: int | UnsetType = UNSET
    calibration_rows: int | UnsetType = UNSET
    lr: float | UnsetType = UNSET
    seq_len: int | UnsetType = UNSET
    batch_size: int | UnsetType = UNSET
    warmup_ratio: float | UnsetType = UNSET
    weight_decay: float | UnsetType = UNSET
    max_grad_norm: float | UnsetType = UNSET
    validation_fraction: float | UnsetType = UNSET
    eval_every: int | UnsetType = UNSET
    checkpoint_every: int | UnsetType = UNSET
    seed: int | UnsetType = UNSET


class JobView(Struct, frozen=True, kw_only=True):
    """The job object. ``output_model_id`` is null until the job has completed.

    ``retries`` counts how often it was taken up again after an interruption, from
    ``last_checkpoint_step``: no fault of the job's. ``price_cents`` was agreed at submission,
    ``charge_cents`` is what was taken, null until the job has ended. ``steps_total`` and
    ``tokens_planned`` are the whole work, ``tokens_processed`` what is done of it.
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


def hyperparams_view(params: Hyperparams) -> JobHyperparams:
    fields = asdict(params)
    if "learning_rate" in fields:
        fields["lr"] = fields.pop("learning_rate")
    return JobHyperparams(**fields)


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
