"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from datetime import datetime

from msgspec import Struct


class RunCreated(Struct, frozen=True, kw_only=True):
    """An accepted run. `price_cents` has been taken from the balance."""

    run_id: str
    status: str
    """Known are `cancelled`, `completed`, `failed`, `queued`, `running`; a newer server may say
    others.
    """
    price_cents: int
    currency: str
    balance_after_cents: int
    plan_name: str | None = None


class RunModel(Struct, frozen=True, kw_only=True):
    """A model that a run can name as its `model_id`, if it is `available` now."""

    model_id: str
    name: str
    provider: str
    available: bool
    terms_url: str
    use_policy_url: str | None = None


class RunModels(Struct, frozen=True, kw_only=True):
    """All of them; the list has one page."""

    data: list[RunModel] = []


class RunItem(Struct, frozen=True, kw_only=True):
    """A run in a list. `model_id` is the catalogue's slug."""

    run_id: str
    status: str
    """Known are `cancelled`, `completed`, `failed`, `queued`, `running`; a newer server may say
    others.
    """
    model_id: str
    created_at: datetime
    artifacts_available: bool
    artifacts_expires_at: datetime | None = None
    label: str | None = None


class Failure(Struct, frozen=True, kw_only=True):
    """Why a job failed. `code` is for programs; more may be added."""

    code: str
    message: str


class RunDetail(Struct, frozen=True, kw_only=True):
    """A run. `completed_at` is null unless it completed; `finished_at` is when it ended, however
    it did.
    """

    run_id: str
    status: str
    """Known are `cancelled`, `completed`, `failed`, `queued`, `running`; a newer server may say
    others.
    """
    model_id: str
    label: str | None = None
    plan: str | None = None
    price_cents: int
    currency: str
    priority_processing: bool
    retries: int
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    finished_at: datetime | None = None
    artifacts_available: bool
    artifacts_expires_at: datetime | None = None
    error: Failure | None = None


class RunEnvelope(Struct, frozen=True, kw_only=True):
    """One run."""

    run: RunDetail


class ArtifactLink(Struct, frozen=True, kw_only=True):
    """`expires_in` in seconds."""

    artifact_type: str
    url: str
    expires_in: int
    filename: str
    size_bytes: int
    sha256: str


class Artifacts(Struct, frozen=True, kw_only=True):
    """What a completed run has made."""

    artifacts: list[ArtifactLink] = []
