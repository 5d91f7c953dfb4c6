"""API keys as rows: made by an operator, recognised on every request, and taken back everywhere at
once."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from msgspec import Struct

from services.gateway.access.accounts import ALL_SCOPES, AccessScope, Caller
from services.gateway.access.key_text import KEY_PREFIX, hash_of, key_of, mark_of, shown
from services.gateway.access.limits import Limits
from services.gateway.access.peppers import Peppers

CACHE_SECONDS = 0.25
"""How long a gateway believes a key without asking. It saves nearly every query under load, and a
revocation waits as long before it is said to be done."""

WAKE_EARLY = 0.05  # seconds; how much too early a busy event loop's timer may fire
USED_GRAIN = timedelta(minutes=1)  # last use is shown to people; writing it each time costs
KEY_NAMESPACE = UUID("5b0c1c5e-6d0f-5e0b-9a55-3c6a6f1a2f10")  # of ids made from a key's hash
COLUMNS = "id, name, prefix, scopes, created_at, expires_at, last_used_at"


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key as it may be seen again: ``prefix`` is its beginning. Null ``expires_at``: never."""

    id: UUID
    name: str
    prefix: str
    scopes: list[AccessScope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


async def create_key(
    connection: Any,
    *,
    account_id: UUID,
    name: str,
    pepper: bytes,
    secret: bytes,
    now: datetime,
    scopes: Sequence[str] = ALL_SCOPES,
    expires_at: datetime | None = None,
    prefix: str = KEY_PREFIX,
) -> str:
    """An operator's key, from ``SECRET_BYTES`` random bytes; the answer is shown once.

    Raises asyncpg.ForeignKeyViolationError for an unknown account.
    """
    key = key_of(secret, prefix)
    hashed = hash_of(key, pepper)
    await connection.execute(
        "INSERT INTO gateway.api_key"
        " (id, account_id, name, prefix, hash, scopes, created_at, expires_at, hashed_with)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        uuid5(KEY_NAMESPACE, hashed.hex()),
        account_id,
        name,
        shown(key, prefix),
        hashed,
        list(scopes),
        now,
        expires_at,
        mark_of(pepper),
    )
    return key


class ListedKey(ApiKey, frozen=True, kw_only=True):
    """What an operator sees: also keys that were taken back."""

    revoked_at: datetime | None


async def list_keys(connection: Any, *, account_id: UUID) -> list[ListedKey]:
    """Every key that the account ever had, oldest first."""
    rows = await connection.fetch(
        f"SELECT {COLUMNS}, revoked_at FROM gateway.api_key"
        " WHERE account_id = $1 ORDER BY created_at, id",
        account_id,
    )
    return [ListedKey(**row) for row in rows]


def state_of(listed: ListedKey, now: datetime) -> str:
    """In one or two words, for people."""
    if listed.revoked_at is not None:
        return f"revoked {listed.revoked_at:%F}"
    if listed.expires_at is None:
        return "active"
    return f"{'active until' if listed.expires_at > now else 'expired'} {listed.expires_at:%F}"


async def revoke_key(
    pool: Any, *, key_id: UUID, now: datetime, account_id: UUID | None = None
) -> bool:
    """Refuse the key from now on; False for one that is unknown or was revoked before, or that
    is not the account's, if one is named.

    When it returns, no gateway believes the key any more: whoever asked before the row was
    changed has forgotten the answer by then.
    """
    done = await pool.fetchval(
        "UPDATE gateway.api_key SET revoked_at = $2"
        " WHERE id = $1 AND revoked_at IS NULL AND ($3::uuid IS NULL OR account_id = $3)"
        " RETURNING true",
        key_id,
        now,
        account_id,
    )
    if done:
        await asyncio.sleep(CACHE_SECONDS + WAKE_EARLY)
    return bool(done)


class StaleKey(Struct, frozen=True, kw_only=True):
    """A key that can be used, and is hashed with another pepper than that of now."""

    id: UUID
    account_id: UUID
    last_used_at: datetime | None


async def stale_keys(connection: Any, *, pepper: bytes, now: datetime) -> list[StaleKey]:
    """Which keys would be void without the pepper before this one: those not used since."""
    rows = await connection.fetch(
        "SELECT id, account_id, last_used_at FROM gateway.api_key"
        " WHERE hashed_with IS DISTINCT FROM $1 AND revoked_at IS NULL"
        " AND (expires_at IS NULL OR expires_at > $2) ORDER BY last_used_at NULLS FIRST, id",
        mark_of(pepper),
        now,
    )
    return [StaleKey(**row) for row in rows]


async def caller_of(
    connection: Any, key: str, peppers: Peppers, limits: Limits, now: datetime
) -> Caller | None:
    """Whose key this is; None for one that is unknown, revoked or expired. Remembers when it was
    used, and hashes it with the pepper of now."""
    hashes = [hash_of(key, pepper) for pepper in peppers.all]
    row = await connection.fetchrow(
        "SELECT k.id, k.account_id, k.scopes, k.last_used_at, k.hashed_with, a.plan,"
        " a.requests_per_minute"
        " FROM gateway.api_key k JOIN gateway.account a ON a.id = k.account_id"
        " WHERE k.hash = ANY($1) AND k.revoked_at IS NULL"
        " AND (k.expires_at IS NULL OR k.expires_at > $2)",
        hashes,
        now,
    )
    if row is None:
        return None
    last_used = row["last_used_at"]
    fresh = last_used is not None and now - last_used <= USED_GRAIN
    if not fresh or row["hashed_with"] != peppers.mark:
        await connection.execute(
            "UPDATE gateway.api_key SET last_used_at = $2, hash = $3, hashed_with = $4"
            " WHERE id = $1",
            row["id"],
            now,
            hashes[0],
            peppers.mark,
        )
    return Caller(
        account_id=row["account_id"],
        scopes=frozenset(row["scopes"]),
        rate=limits.rate(row["plan"], row["requests_per_minute"]),
    )
