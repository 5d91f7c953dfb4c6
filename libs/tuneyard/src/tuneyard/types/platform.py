"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from msgspec import Struct


class Health(Struct, frozen=True, kw_only=True):
    """`status` is `ok` or `ready`; anything else is another HTTP status."""

    status: str
