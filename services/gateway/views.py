"""A run and a result as their owner sees them. Made from the folded state alone."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

from libs.contracts.base import JobStatus
from libs.contracts.results import RunResult
from libs.jobstate.state import JobState
from libs.jobstate.view import Failure, failure_of

CENTS = 100


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
        error=failure_of(state),
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
