"""What was sent to an endpoint and what came of it; and sending it again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from libs.contracts.webhooks_rpc import (
    PING,
    RECOVER,
    REDELIVER,
    Attempt,
    Delivery,
    DeliveryFound,
    DeliveryList,
    DeliveryStatus,
    ListDeliveries,
    Pinged,
    Recover,
    Recovered,
    Recovering,
    Redeliver,
    Redelivered,
    SendPing,
    UnknownDelivery,
    UnknownEndpoint,
)
from libs.eventlog.connection import Connection
from services.webhooks.answering import Answering, once
from services.webhooks.endpoints import is_known

SHOWN_ATTEMPTS = 10  # of a delivery: its whole schedule has as many
ANSWER_BYTES = 512 * 1024
"""Of deliveries in one answer. NATS carries 1 MiB, and an attempt's first KB of an answer may take
six as JSON: a hundred deliveries can be six times too many."""
RECOVERED_AT_ONCE = 10_000
"""Deliveries of one request: written in a fraction of the time that an RPC may take."""

PINGS_WAITING = 2
"""Of an endpoint: one that hangs, and one after it was mended. With 50 endpoints, an account has
fewer on their way than a sender has room for, however often it asks."""

COLUMNS = (
    "id, endpoint_id AS webhook_id, event_id, event_type, job_id, status,"
    " attempts AS attempt_count, next_at AS next_attempt_at, delivered_at, created_at"
)

PAGE_SQL = f"""
SELECT {COLUMNS} FROM webhooks.delivery
WHERE endpoint_id = $1 AND (created_at, id) < ($2, $3) {{}}
ORDER BY created_at DESC, id DESC LIMIT $4
"""

OF_STATUS: dict[DeliveryStatus | None, str] = {
    None: "",
    # Spelled out, for the planner to know which partial index has them.
    "pending": "AND status = 'pending'",
    "delivered": "AND status = 'delivered'",
    "failed": "AND status = 'failed'",
}

ATTEMPTS_SQL = f"""
SELECT a.* FROM unnest($1::uuid[]) AS of (id) CROSS JOIN LATERAL (
    SELECT delivery_id, number, started_at, latency_ms, status_code, error, response
    FROM webhooks.attempt WHERE delivery_id = of.id ORDER BY number DESC LIMIT {SHOWN_ATTEMPTS}
) a ORDER BY a.number DESC
"""

PING_SQL = f"""
INSERT INTO webhooks.delivery
    (id, endpoint_id, event_id, event_type, status, step, attempts, next_at, created_at, payload)
VALUES ($1, $2, $3, 'ping', 'pending', 0, 0, $4, $4, $5)
RETURNING {COLUMNS}
"""

PINGS_SQL = f"""
SELECT {COLUMNS} FROM webhooks.delivery
WHERE endpoint_id = $1 AND status = 'pending' AND payload IS NOT NULL
ORDER BY created_at DESC, id DESC LIMIT {PINGS_WAITING}
"""

REDELIVER_SQL = f"""
UPDATE webhooks.delivery
SET status = 'pending', step = 0, next_at = $3, delivered_at = NULL
WHERE endpoint_id = $1 AND id = $2
RETURNING {COLUMNS}
"""

GIVEN_UP_SQL = """
WITH found AS (
    SELECT d.id FROM webhooks.delivery d JOIN webhooks.notification n USING (event_id)
    WHERE d.endpoint_id = $1 AND d.status = 'failed' AND n.occurred_at >= $2
    ORDER BY n.occurred_at LIMIT $4
    FOR UPDATE OF d
)
UPDATE webhooks.delivery d SET status = 'pending', step = 0, next_at = $3
FROM found WHERE d.id = found.id
"""

MISSED_SQL = """
SELECT n.event_id, n.event_type, n.job_id
FROM webhooks.endpoint e JOIN webhooks.notification n ON n.account_id = e.account_id
WHERE e.id = $1 AND n.occurred_at >= $2 AND n.payload IS NOT NULL
  AND (e.event_types IS NULL OR n.event_type = ANY (e.event_types))
  AND NOT EXISTS (SELECT FROM webhooks.delivery d
                  WHERE (d.endpoint_id, d.event_id) = (e.id, n.event_id))
ORDER BY n.occurred_at LIMIT $3
"""

DELIVER_SQL = """
INSERT INTO webhooks.delivery
    (id, endpoint_id, event_id, event_type, job_id, status, step, attempts, next_at, created_at)
SELECT m.id, $1, m.event_id, m.event_type, m.job_id, 'pending', 0, 0, $2, $2
FROM unnest($3::uuid[], $4::uuid[], $5::text[], $6::uuid[]) AS m (id, event_id, event_type, job_id)
ON CONFLICT (endpoint_id, event_id) DO NOTHING
"""


class PingData(Struct, frozen=True, kw_only=True):
    webhook_id: UUID


class Ping(Struct, frozen=True, kw_only=True):
    """The payload of a test, in the form of every other one."""

    type: str
    timestamp: datetime
    data: PingData


async def send_ping(answering: Answering, asked: SendPing) -> Pinged:
    """A new ping; or the last one, while ``PINGS_WAITING`` are on their way already."""

    async def ping(connection: Connection) -> DeliveryFound | UnknownEndpoint:
        if not await is_known(connection, asked.account_id, asked.endpoint_id):
            return UnknownEndpoint()
        waiting = await connection.fetch(PINGS_SQL, asked.endpoint_id)
        if len(waiting) == PINGS_WAITING:
            return DeliveryFound(delivery=_delivery(waiting[0], []), replayed=False)
        now = answering.now()
        payload = Ping(type="ping", timestamp=now, data=PingData(webhook_id=asked.endpoint_id))
        row = await connection.fetchrow(
            PING_SQL,
            answering.new_id(),
            asked.endpoint_id,
            answering.new_id(),
            now,
            msgspec.json.encode(payload),
        )
        return DeliveryFound(delivery=_delivery(row, []), replayed=False)

    answer = await once(answering, asked, PING, ping)
    answering.wake()
    return answer


async def list_deliveries(
    answering: Answering, asked: ListDeliveries
) -> DeliveryList | UnknownEndpoint:
    async with answering.pool.acquire() as connection:
        if not await is_known(connection, asked.account_id, asked.endpoint_id):
            return UnknownEndpoint()
        rows = await connection.fetch(
            PAGE_SQL.format(OF_STATUS[asked.status]),
            asked.endpoint_id,
            asked.before,
            asked.before_id,
            asked.limit + 1,
        )
        found = await with_attempts(connection, rows[: asked.limit])
    fitting = _fitting(found)
    return DeliveryList(deliveries=fitting, more=len(fitting) < len(rows))


async def with_attempts(connection: Connection, rows: Sequence[Any]) -> list[Delivery]:
    attempts: dict[UUID, list[Attempt]] = {row["id"]: [] for row in rows}
    for row in await connection.fetch(ATTEMPTS_SQL, list(attempts)):
        attempts[row["delivery_id"]].append(
            Attempt(**{name: row[name] for name in Attempt.__struct_fields__})
        )
    return [_delivery(row, attempts[row["id"]]) for row in rows]


def _delivery(row: Any, attempts: list[Attempt]) -> Delivery:
    return Delivery(**dict(row), attempts=attempts)


def _fitting(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """As many as an answer carries: the first one at least."""
    shown: list[Delivery] = []
    room = ANSWER_BYTES
    for delivery in deliveries:
        room -= len(msgspec.json.encode(delivery))
        if room < 0 and shown:
            break
        shown.append(delivery)
    return shown


async def redeliver(answering: Answering, asked: Redeliver) -> Redelivered:
    async def again(connection: Connection) -> DeliveryFound | UnknownDelivery:
        if not await is_known(connection, asked.account_id, asked.endpoint_id):
            return UnknownDelivery()
        row = await connection.fetchrow(
            REDELIVER_SQL, asked.endpoint_id, asked.delivery_id, answering.now()
        )
        if row is None:
            return UnknownDelivery()
        (delivery,) = await with_attempts(connection, [row])
        return DeliveryFound(delivery=delivery, replayed=False)

    answer = await once(answering, asked, REDELIVER, again)
    answering.wake()
    return answer


async def recover(answering: Answering, asked: Recover) -> Recovered:
    async def act(connection: Connection) -> Recovering | UnknownEndpoint:
        if not await is_known(connection, asked.account_id, asked.endpoint_id):
            return UnknownEndpoint()
        now, endpoint_id, since = answering.now(), asked.endpoint_id, asked.since
        told = await connection.execute(GIVEN_UP_SQL, endpoint_id, since, now, RECOVERED_AT_ONCE)
        given_up = int(told.rpartition(" ")[2])
        room = RECOVERED_AT_ONCE - given_up
        missed = await connection.fetch(MISSED_SQL, endpoint_id, since, room + 1)
        more, missed = len(missed) > room, missed[:room]
        await connection.execute(
            DELIVER_SQL,
            endpoint_id,
            now,
            [answering.new_id() for _ in missed],
            [row["event_id"] for row in missed],
            [row["event_type"] for row in missed],
            [row["job_id"] for row in missed],
        )
        return Recovering(deliveries=given_up + len(missed), more=more or room == 0, replayed=False)

    answer = await once(answering, asked, RECOVER, act)
    answering.wake()
    return answer
