"""Writing what came of attempts: those that ended while the last group was written are the next.

A group is one transaction: what deliveries and endpoints are is read, decided on and written.
Deliveries are locked, in order. Endpoints are not, since most outcomes change nothing of them, and
every event that is fanned out refers to them; when another has changed one in between, the group
is decided again.
"""

import asyncio
from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

import asyncpg
import structlog
from msgspec import Struct
from msgspec.structs import astuple

from libs.eventlog.connection import BROKEN_OFF, Connection, Pool
from services.webhooks.model import Attempted, Health, Progress, decide

MOST = 500  # outcomes a transaction; larger ones gain nothing and delay everybody in them
AGAIN_AFTER = 0.5  # seconds, when PostgreSQL does not answer; the claims lapse after 45

AWAY = (
    *BROKEN_OFF,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)
"""PostgreSQL restarts, or has no room just now; it would have taken the outcomes. A ValueError
among them is a value that asyncpg can't send."""

STATE_SQL = """
SELECT d.id, d.status, d.step, d.attempts, d.next_at, d.delivered_at,
    e.id AS endpoint_id, e.enabled, e.disabled_reason, e.disabled_at, e.failing_since, e.held_until
FROM webhooks.delivery d JOIN webhooks.endpoint e ON e.id = d.endpoint_id
WHERE d.id = ANY ($1::uuid[]) ORDER BY d.id FOR NO KEY UPDATE OF d
"""
# One statement, because a group waits for every way to the server and back.
WRITE_SQL = """
WITH written AS (
    UPDATE webhooks.delivery AS d
    SET status = new.status, step = new.step, attempts = new.attempts, next_at = new.next_at,
        delivered_at = new.delivered_at
    FROM unnest($1::uuid[], $2::text[], $3::int[], $4::int[], $5::timestamptz[],
                $6::timestamptz[])
        AS new (id, status, step, attempts, next_at, delivered_at)
    WHERE d.id = new.id
)
INSERT INTO webhooks.attempt
    (delivery_id, number, started_at, latency_ms, status_code, error, response)
SELECT * FROM unnest($7::uuid[], $8::int[], $9::timestamptz[], $10::int[], $11::int[],
                     $12::text[], $13::text[])
"""
ENDPOINT_SQL = """
UPDATE webhooks.endpoint
SET enabled = $2, disabled_reason = $3, disabled_at = $4, failing_since = $5, held_until = $6,
    updated_at = CASE WHEN enabled = $2 THEN updated_at ELSE $4 END
WHERE id = $1 AND enabled = $7 AND failing_since IS NOT DISTINCT FROM $8
    AND held_until IS NOT DISTINCT FROM $9
"""

S = TypeVar("S", Progress, Health)

logger = structlog.get_logger()


class Outcome(Struct, frozen=True, kw_only=True):
    """``chance`` is what the delay before the next attempt is chosen by, from 0 to 1."""

    delivery_id: UUID
    endpoint_id: UUID
    attempted: Attempted
    chance: float


class Changed(Exception):
    """An endpoint is not what it was when it was read: decide again."""


class Outcomes:
    """Outcomes of this process's attempts. Safe to write again: a claim counts once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, outcome: Outcome) -> None:
        """Durable when it returns."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((outcome, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        await future

    async def _write_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            await self._until_written([outcome for outcome, _ in group])
            for _, future in group:
                if not future.done():
                    future.set_result(None)
        self._writing = None

    async def _until_written(self, group: Sequence[Outcome]) -> None:
        while True:
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    await settle(connection, group)
                return
            except (Changed, asyncpg.DeadlockDetectedError):
                continue
            except Exception as error:
                if isinstance(error, AWAY) and not isinstance(error, ValueError):
                    logger.warning("outcomes not written yet", error=repr(error))
                    await asyncio.sleep(AGAIN_AFTER)
                    continue
                logger.exception("an outcome can't be stored", outcomes=len(group))
            if len(group) > 1:
                for one in group:  # its neighbours are not held up
                    await self._until_written([one])
            return  # alone: its claim lapses, and it is attempted again

    async def stop(self) -> None:
        """What is not written by now comes again."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)


async def settle(connection: Connection, group: Sequence[Outcome]) -> None:
    """In the caller's transaction. Raises Changed."""
    rows = await connection.fetch(STATE_SQL, [outcome.delivery_id for outcome in group])
    progress = {row["id"]: _of(Progress, row) for row in rows}
    before = {row["endpoint_id"]: _of(Health, row) for row in rows}
    health, attempts = dict(before), []
    for outcome in group:
        delivery, endpoint = outcome.delivery_id, outcome.endpoint_id
        if delivery not in progress or endpoint not in health:
            continue  # its owner has removed the endpoint
        progress[delivery], health[endpoint] = decide(
            progress[delivery], health[endpoint], outcome.attempted, chance=outcome.chance
        )
        attempts.append(_attempt_row(delivery, progress[delivery].attempts, outcome.attempted))
    if not attempts:
        return
    changed = [(delivery, *astuple(after)) for delivery, after in progress.items()]
    await connection.execute(WRITE_SQL, *_columns(changed), *_columns(attempts))
    for endpoint in sorted(health):
        if health[endpoint] != before[endpoint]:
            await _change(connection, endpoint, before[endpoint], health[endpoint])


async def _change(connection: Connection, endpoint: UUID, before: Health, after: Health) -> None:
    status = await connection.execute(
        ENDPOINT_SQL,
        endpoint,
        after.enabled,
        after.disabled_reason,
        after.disabled_at,
        after.failing_since,
        after.held_until,
        before.enabled,
        before.failing_since,
        before.held_until,
    )
    if status == "UPDATE 0":
        raise Changed(str(endpoint))
    if before.enabled and not after.enabled:
        logger.info("endpoint disabled", endpoint=str(endpoint), reason=after.disabled_reason)


def _of(struct: type[S], row: asyncpg.Record) -> S:
    return struct(**{name: row[name] for name in struct.__struct_fields__})


def _attempt_row(delivery_id: UUID, number: int, attempted: Attempted) -> tuple[object, ...]:
    return (
        delivery_id,
        number,
        attempted.started_at,
        attempted.latency_ms,
        attempted.status_code,
        attempted.error,
        attempted.response,
    )


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
