"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from datetime import datetime

from msgspec import Struct

from tuneyard.types.jobs import ModelName


class BaseModel(Struct, frozen=True, kw_only=True):
    """`id` and `slug` are interchangeable wherever a base model is named."""

    id: str
    slug: str
    name: str
    provider: str
    params: int
    available: bool
    terms_url: str
    use_policy_url: str | None = None


class Model(Struct, frozen=True, kw_only=True):
    """A model of the catalogue or of the account's own.

    `available` says whether a job can take it as its base now. An own model has no terms, no
    provider and no slug; it names the job that made it and what that job worked on.
    """

    id: str
    slug: str | None = None
    name: str
    owned_by: str
    """Known are `account`, `catalog`; a newer server may say others."""
    params: int
    available: bool
    kind: str
    """Known are `adapter`, `model`; a newer server may say others."""
    created_at: datetime | None = None
    provider: str | None = None
    terms_url: str | None = None
    use_policy_url: str | None = None
    job_id: str | None = None
    base_model: ModelName | None = None
    expires_at: datetime | None = None
