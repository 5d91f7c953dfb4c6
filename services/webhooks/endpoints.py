"""An account's endpoints: made, shown, changed, removed, and given new secrets."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from msgspec.structs import asdict, replace

from libs.contracts.webhooks_rpc import (
    CREATE,
    ROTATE,
    Changed,
    ChangeEndpoint,
    Created,
    CreateEndpoint,
    Endpoint,
    EndpointCreated,
    EndpointFound,
    EndpointList,
    EndpointRemoved,
    EndpointWithSecret,
    GetEndpoint,
    ListDisabled,
    ListEndpoints,
    RemoveEndpoint,
    Rotated,
    RotateSecret,
    SecretRotated,
    TooManyEndpoints,
    UnknownEndpoint,
    UrlRefused,
)
from libs.eventlog.connection import Connection
from services.webhooks.answering import Answering, once
from services.webhooks.guard import refusal
from services.webhooks.secrets import OVERLAP, shown

MAX_ENDPOINTS = 50
"""An account's: each event is sent to every one of them, and one account must not make us send
without end. Stripe allows 16."""

COLUMNS = ", ".join(Endpoint.__struct_fields__)

INSERT_SQL = f"""
INSERT INTO webhooks.endpoint
    (id, account_id, url, description, event_types, enabled, disabled_at, secret, created_at,
     updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
RETURNING {COLUMNS}
"""

PAGE_SQL = f"""
SELECT {COLUMNS} FROM webhooks.endpoint
WHERE account_id = $1 AND (created_at, id) < ($2, $3)
ORDER BY created_at DESC, id DESC LIMIT $4
"""

ONE_SQL = f"SELECT {COLUMNS} FROM webhooks.endpoint WHERE account_id = $1 AND id = $2"

CHANGE_SQL = """
UPDATE webhooks.endpoint
SET url = $2, description = $3, event_types = $4, enabled = $5, disabled_reason = $6,
    disabled_at = $7, failing_since = $8, held_until = $9, updated_at = $10
WHERE id = $1
"""

# Nobody's from now on, so it is found no more; `services.webhooks.retention` deletes it.
REMOVE_SQL = """
UPDATE webhooks.endpoint
SET account_id = NULL, enabled = false, url = '', description = NULL, secret = '',
    previous_secret = NULL
WHERE account_id = $1 AND id = $2
RETURNING id
"""

ROTATE_SQL = f"""
UPDATE webhooks.endpoint
SET previous_secret = secret, previous_until = $3, secret = $4, updated_at = $5
WHERE account_id = $1 AND id = $2
RETURNING {COLUMNS}
"""

DISABLED_SQL = f"""
SELECT {COLUMNS} FROM webhooks.endpoint
WHERE account_id = $1 AND NOT enabled AND disabled_reason IS NOT NULL
ORDER BY disabled_at DESC, id DESC
"""


def endpoint_of(row: Any) -> Endpoint:
    return msgspec.convert(dict(row), Endpoint)


def with_secret(row: Any, secret: bytes) -> EndpointWithSecret:
    return EndpointWithSecret(**asdict(endpoint_of(row)), secret=shown(secret))


async def create_endpoint(answering: Answering, asked: CreateEndpoint) -> Created:
    """Its secret is in this answer, and in its repetitions."""

    async def create(connection: Connection) -> EndpointCreated | UrlRefused | TooManyEndpoints:
        if reason := refusal(asked.url, allow_loopback=answering.allow_loopback):
            return UrlRefused(reason=reason)
        existing = await connection.fetchval(
            "SELECT count(*) FROM webhooks.endpoint WHERE account_id = $1", asked.account_id
        )
        if existing >= MAX_ENDPOINTS:
            return TooManyEndpoints(limit=MAX_ENDPOINTS)
        secret, now = answering.new_secret(), answering.now()
        row = await connection.fetchrow(
            INSERT_SQL,
            answering.new_id(),
            asked.account_id,
            asked.url,
            asked.description,
            asked.event_types,
            asked.enabled,
            None if asked.enabled else now,
            secret,
            now,
        )
        return EndpointCreated(endpoint=with_secret(row, secret), replayed=False)

    return await once(answering, asked, CREATE, create)


async def list_endpoints(answering: Answering, asked: ListEndpoints) -> EndpointList:
    rows = await answering.pool.fetch(
        PAGE_SQL, asked.account_id, asked.before, asked.before_id, asked.limit + 1
    )
    return EndpointList(endpoints=[endpoint_of(row) for row in rows])


async def get_endpoint(answering: Answering, asked: GetEndpoint) -> EndpointFound | UnknownEndpoint:
    row = await answering.pool.fetchrow(ONE_SQL, asked.account_id, asked.endpoint_id)
    return UnknownEndpoint() if row is None else EndpointFound(endpoint=endpoint_of(row))


async def change_endpoint(answering: Answering, asked: ChangeEndpoint) -> Changed:
    if asked.url is not UNSET and (
        reason := refusal(asked.url, allow_loopback=answering.allow_loopback)
    ):
        return UrlRefused(reason=reason)
    async with answering.pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            ONE_SQL + " FOR NO KEY UPDATE", asked.account_id, asked.endpoint_id
        )
        if row is None:
            return UnknownEndpoint()
        after = changed(endpoint_of(row), asked, answering.now())
        await connection.execute(
            CHANGE_SQL,
            after.id,
            after.url,
            after.description,
            after.event_types,
            after.enabled,
            after.disabled_reason,
            after.disabled_at,
            after.failing_since,
            after.held_until,
            after.updated_at,
        )
    answering.wake()
    return EndpointFound(endpoint=after)


def changed(before: Endpoint, asked: ChangeEndpoint, now: datetime) -> Endpoint:
    """The endpoint as its owner wants it. Pure.

    Whoever enables it says that it works again, so nothing is held against it. Whoever disables it
    has seen why it was off, and is not told any more. What an old URL did says nothing of a new
    one.
    """
    wanted = {
        name: value
        for name in ("url", "event_types", "description", "enabled")
        if (value := getattr(asked, name)) is not UNSET
    }
    after = replace(before, **wanted, updated_at=now)
    if after.url != before.url:
        after = replace(after, failing_since=None, held_until=None)
    if asked.enabled is True:
        return replace(
            after, disabled_reason=None, disabled_at=None, failing_since=None, held_until=None
        )
    if asked.enabled is False:
        return replace(after, disabled_reason=None, disabled_at=before.disabled_at or now)
    return after


async def remove_endpoint(
    answering: Answering, asked: RemoveEndpoint
) -> EndpointRemoved | UnknownEndpoint:
    gone = await answering.pool.fetchval(REMOVE_SQL, asked.account_id, asked.endpoint_id)
    return UnknownEndpoint() if gone is None else EndpointRemoved()


async def rotate_secret(answering: Answering, asked: RotateSecret) -> Rotated:
    async def rotate(connection: Connection) -> SecretRotated | UnknownEndpoint:
        secret, now = answering.new_secret(), answering.now()
        row = await connection.fetchrow(
            ROTATE_SQL, asked.account_id, asked.endpoint_id, now + OVERLAP, secret, now
        )
        if row is None:
            return UnknownEndpoint()
        return SecretRotated(endpoint=with_secret(row, secret), replayed=False)

    return await once(answering, asked, ROTATE, rotate)


async def list_disabled(answering: Answering, asked: ListDisabled) -> EndpointList:
    """Those that were switched off by themselves, the latest first."""
    rows = await answering.pool.fetch(DISABLED_SQL, asked.account_id)
    return EndpointList(endpoints=[endpoint_of(row) for row in rows])


async def is_known(connection: Connection, account_id: UUID, endpoint_id: UUID) -> bool:
    """Whether the account has this endpoint; it stays until the transaction's end."""
    return bool(
        await connection.fetchval(
            "SELECT 1 FROM webhooks.endpoint WHERE account_id = $1 AND id = $2 FOR KEY SHARE",
            account_id,
            endpoint_id,
        )
    )
