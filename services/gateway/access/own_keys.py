"""API keys as their account has them: made over HTTP, as many as the plan allows, and listed."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from services.gateway.access.accounts import AccessScope
from services.gateway.access.key_text import SHOWN_CHARS, derived_secret, hash_of, key_of, shown
from services.gateway.access.keys import COLUMNS, ApiKey
from services.gateway.access.limits import Limits
from services.gateway.access.peppers import Peppers
from services.gateway.http.errors import ApiError, invalid
from services.gateway.http.pages import Page, Place, page
from services.gateway.model import HEADER_KEY_LIFE

MAX_LIFE = timedelta(days=3_653)  # ten years: whoever wants more leaves it out


class CreatedKey(ApiKey, frozen=True, kw_only=True):
    """``key`` is shown this once; it is kept nowhere."""

    key: Annotated[str, Meta(description="To be sent as `Authorization: Bearer ...`.")]


class Wanted(Struct, frozen=True, kw_only=True):
    """A key that a client asks for."""

    account_id: UUID
    name: str
    scopes: Sequence[AccessScope]
    expires_at: datetime | None
    idempotency_key: str | None
    request_sha256: str


class Made(Struct, frozen=True, kw_only=True):
    """``replayed``: the key was made before, by a request under the same idempotency key."""

    key: CreatedKey
    replayed: bool


def _api_key(row: Any) -> ApiKey:
    return msgspec.convert({name: row[name] for name in ApiKey.__struct_fields__}, ApiKey)


async def make_key(
    pool: Any,
    wanted: Wanted,
    *,
    limits: Limits,
    peppers: Peppers,
    key_id: UUID,
    secret: bytes,
    now: datetime,
) -> Made | None:
    """A key of a client's own; None when its idempotency key stands for another request.

    Requests of one account take turns, so that none slips past the limit. Raises ApiError 409
    ``api_key_limit``, or 422 for an expiry that makes no sense.
    """
    async with pool.acquire() as connection, connection.transaction():
        plan = await connection.fetchval(
            "SELECT plan FROM gateway.account WHERE id = $1 FOR NO KEY UPDATE", wanted.account_id
        )
        earlier = await _earlier(connection, wanted, now)
        if earlier is not None:
            if earlier["request_sha256"] != wanted.request_sha256:
                return None
            return Made(key=_shown(earlier, wanted, peppers), replayed=True)
        check_life(wanted.expires_at, now)
        await _check_room(connection, wanted.account_id, limits.of(plan).max_api_keys, now)
        if wanted.idempotency_key is not None:
            secret = derived_secret(peppers.current, key_id, wanted.idempotency_key)
        key = key_of(secret, limits.key_prefix)
        row = await connection.fetchrow(
            "INSERT INTO gateway.api_key (id, account_id, name, prefix, hash, scopes, created_at,"
            " expires_at, idempotency_sha256, request_sha256, hashed_with)"
            f" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING {COLUMNS}",
            key_id,
            wanted.account_id,
            wanted.name,
            shown(key, limits.key_prefix),
            hash_of(key, peppers.current),
            list(wanted.scopes),
            now,
            wanted.expires_at,
            _idempotency_hash(wanted),
            wanted.request_sha256,
            peppers.mark,
        )
    return Made(key=_created(row, key), replayed=False)


def _idempotency_hash(wanted: Wanted) -> bytes | None:
    text = wanted.idempotency_key
    return None if text is None else hashlib.sha256(text.encode()).digest()


async def _earlier(connection: Any, wanted: Wanted, now: datetime) -> Any:
    """The row that the idempotency key stands for; one that is past its life lets go of it."""
    hashed = _idempotency_hash(wanted)
    if hashed is None:
        return None
    await connection.execute(
        "UPDATE gateway.api_key SET idempotency_sha256 = NULL"
        " WHERE (account_id, idempotency_sha256) = ($1, $2) AND created_at < $3",
        wanted.account_id,
        hashed,
        now - HEADER_KEY_LIFE,
    )
    return await connection.fetchrow(
        f"SELECT {COLUMNS}, hash, request_sha256 FROM gateway.api_key"
        " WHERE (account_id, idempotency_sha256) = ($1, $2)",
        wanted.account_id,
        hashed,
    )


def _shown(row: Any, wanted: Wanted, peppers: Peppers) -> CreatedKey:
    """The key as it was derived then, which may have been under a former pepper. Raises ApiError
    409 when that one is not known any more."""
    assert wanted.idempotency_key is not None
    for pepper in peppers.all:
        secret = derived_secret(pepper, row["id"], wanted.idempotency_key)
        key = key_of(secret, row["prefix"][:-SHOWN_CHARS])
        if row["hash"] in (hash_of(key, one) for one in peppers.all):
            return _created(row, key)
    raise ApiError(
        "idempotency_conflict",
        f"The key {row['id']} was made, and can't be shown again; delete it and make another,"
        " under a new idempotency key.",
    )


def _created(row: Any, key: str) -> CreatedKey:
    """As the first answer was: a key that nobody has used yet."""
    known = msgspec.structs.asdict(_api_key(row)) | {"last_used_at": None}
    return CreatedKey(**known, key=key)


def check_life(expires_at: datetime | None, now: datetime) -> None:
    """Raises ApiError 422."""
    if expires_at is not None and not now < expires_at <= now + MAX_LIFE:
        raise invalid("expires_at: name a moment to come, within ten years, or leave it out")


async def _check_room(connection: Any, account_id: UUID, max_active: int, now: datetime) -> None:
    active = await connection.fetchval(
        "SELECT count(*) FROM gateway.api_key WHERE account_id = $1 AND revoked_at IS NULL"
        " AND (expires_at IS NULL OR expires_at > $2)",
        account_id,
        now,
    )
    if active >= max_active:
        raise ApiError(
            "api_key_limit",
            f"The account has {active} active keys and its plan allows {max_active};"
            " delete one that is not needed.",
            details={"active": active, "max_api_keys": max_active},
        )


async def key_page(pool: Any, account_id: UUID, after: Place, limit: int) -> Page[ApiKey]:
    """One page of the account's keys that were not deleted, newest first."""
    rows = await pool.fetch(
        f"SELECT {COLUMNS} FROM gateway.api_key"
        " WHERE account_id = $1 AND revoked_at IS NULL AND (created_at, id) < ($2, $3)"
        " ORDER BY created_at DESC, id DESC LIMIT $4",
        account_id,
        after.created_at,
        after.id,
        limit + 1,
    )
    keys: Sequence[ApiKey] = [_api_key(row) for row in rows]
    return page(keys, limit, lambda one: Place(one.created_at, one.id))
