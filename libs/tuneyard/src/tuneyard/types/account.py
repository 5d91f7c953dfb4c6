"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from datetime import datetime

from msgspec import Struct


class Preferences(Struct, frozen=True, kw_only=True):
    """What an account wants to be told by mail."""

    job_completed: bool
    job_failed: bool
    billing: bool
    product_news: bool


class AccountLimits(Struct, frozen=True, kw_only=True):
    """`burst` requests may come at once."""

    requests_per_minute: int
    burst: int
    max_api_keys: int


class AccountNotice(Struct, frozen=True, kw_only=True):
    """Something that waits for the account's owner. `webhook_disabled`: that webhook failed for so
    long that it was switched off; enabling or disabling it ends the notice.
    """

    code: str
    """Known are `webhook_disabled`; a newer server may say others."""
    message: str
    created_at: datetime
    webhook_id: str


class Me(Struct, frozen=True, kw_only=True):
    """`paused`: a charge was declined, and `paused_reason` says which. `portal_url` is where cards
    and the subscription are managed; null where this installation takes no cards. `notices` are
    what waits for its owner, the latest first.
    """

    id: str
    name: str
    email: str | None = None
    plan: str
    subscription: str
    """Known are `none`, `plus`, `pro`; a newer server may say others."""
    paused: bool
    paused_reason: str | None = None
    has_card: bool
    portal_url: str | None = None
    notification_preferences: Preferences
    limits: AccountLimits
    notices: list[AccountNotice] = []
    created_at: datetime


class CreatedKey(Struct, frozen=True, kw_only=True):
    """`key` is shown this once; it is kept nowhere."""

    id: str
    name: str
    prefix: str
    scopes: list[str] = []
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    key: str
    """To be sent as `Authorization: Bearer ...`."""


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key as it may be seen again: `prefix` is its beginning. Null `expires_at`: never."""

    id: str
    name: str
    prefix: str
    scopes: list[str] = []
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
