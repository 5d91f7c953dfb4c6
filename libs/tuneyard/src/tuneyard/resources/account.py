"""The account, and its API keys."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from tuneyard._call import Call
from tuneyard._method import M, R, Raw, Resource, endpoint, listing
from tuneyard.types import ApiKey, CreatedKey, Deleted, Me, Page, PreferencesPatch

Scope = Literal["admin", "billing", "read", "write"]


class MyAccount(Resource[M, R]):
    @property
    def with_raw_response(self) -> "MyAccount[M, Raw]":
        return MyAccount(self._options, self._driver, raw=True)

    @endpoint("GET", "/v1/me")
    def get(self) -> Call[Me]:
        """The account that the key belongs to."""
        return Call()

    @endpoint("PATCH", "/v1/me")
    def update(
        self,
        *,
        name: str | None = None,
        notification_preferences: PreferencesPatch | Mapping[str, bool] | None = None,
    ) -> Call[Me]:
        """What is left out stays as it is."""
        return Call(body={"name": name, "notification_preferences": notification_preferences})


class ApiKeys(Resource[M, R]):
    @property
    def with_raw_response(self) -> "ApiKeys[M, Raw]":
        return ApiKeys(self._options, self._driver, raw=True)

    @endpoint("POST", "/v1/api-keys", key="header")
    def create(
        self,
        *,
        name: str,
        scopes: Sequence[Scope] | None = None,
        expires_at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> Call[CreatedKey]:
        """Its ``key`` is shown this once. ``scopes`` left out: all that the key has which asks;
        ``expires_at``: never. ``expires_at`` needs a time zone."""
        return Call(
            body={"name": name, "scopes": scopes, "expires_at": expires_at}, key=idempotency_key
        )

    @listing("GET", "/v1/api-keys")
    def list(self, *, limit: int | None = None, cursor: str | None = None) -> Call[Page[ApiKey]]:
        """Newest first. ``limit``: in one page."""
        return Call(query={"limit": limit, "cursor": cursor})

    @endpoint("DELETE", "/v1/api-keys/{key_id}")
    def delete(self, *, key_id: str) -> Call[Deleted]:
        """It can't be used any more at once."""
        return Call(path={"key_id": key_id})
