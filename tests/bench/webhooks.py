"""Deliveries a second through the whole engine, against a loop that only posts.

Both post the same bytes with aiohttp to one receiver, a process of its own, with as many requests
at once. Ours claims, signs, checks addresses, and keeps each attempt durably; the loop does
nothing of it.
"""

import asyncio
import random
import sys
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import aiohttp
import uvloop

from libs.eventlog.connection import Connection, connect, create_pool
from services.webhooks.claims import AT_ONCE
from services.webhooks.guard import Gate
from services.webhooks.outbound import outbound
from services.webhooks.resolver import Resolver
from services.webhooks.sender import Means, Sender
from tests.bench.figures import Figure, Size, faster
from tests.bench.servers import embedded_servers
from tests.support.receiver import Receiver, always
from tests.support.stack import Database

ENDPOINTS = 50
EVENTS = 200  # to each of them, a round
SECRET = bytes(32)
PAYLOAD = b'{"type":"job.queued","data":"%s"}' % (b"x" * 1_400)  # as long as a job
GOAL = 0.2

QUEUE_SQL = """
WITH event AS (
    INSERT INTO webhooks.notification
        (event_id, job_id, account_id, event_type, occurred_at, payload)
    SELECT gen_random_uuid(), gen_random_uuid(), $1, 'job.queued', now(), $2
    FROM generate_series(1, $3)
    RETURNING event_id, job_id
)
INSERT INTO webhooks.delivery
    (id, endpoint_id, event_id, event_type, job_id, status, step, attempts, next_at, created_at)
SELECT gen_random_uuid(), e.id, event_id, 'job.queued', job_id, 'pending', 0, 0, now(), now()
FROM event CROSS JOIN webhooks.endpoint e
"""
ENDPOINT_SQL = """
INSERT INTO webhooks.endpoint
    (id, account_id, url, enabled, secret, created_at, updated_at)
VALUES ($1, $2, $3, true, $4, now(), now())
"""
LEFT_SQL = "SELECT count(*) FROM webhooks.delivery WHERE status = 'pending'"


async def bench(size: Size) -> list[Figure]:
    async with embedded_servers() as servers:
        server = await servers.postgres()
        return await measure(await server.fresh_database(), size)


async def measure(database: Database, size: Size) -> list[Figure]:
    receiver = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.webhooks", stdout=asyncio.subprocess.PIPE
    )
    sql = await connect(database.admin_dsn, command_timeout=60)
    try:
        assert receiver.stdout is not None
        url, account_id = (await receiver.stdout.readline()).decode().strip(), uuid4()
        for _ in range(ENDPOINTS):
            await sql.execute(ENDPOINT_SQL, uuid4(), account_id, url, SECRET)
        rounds = [
            (
                await _delivered(database, sql, account_id, size.of(EVENTS)),
                await _posted(url, size.of(EVENTS) * ENDPOINTS),
            )
            for _ in range(size.rounds)
        ]
    finally:
        receiver.kill()
        await receiver.wait()
        await sql.close()
    return [
        faster("webhooks to fifty endpoints", "deliveries/s", rounds, than="POST", at_least=GOAL)
    ]


async def _delivered(database: Database, sql: Connection, account_id: UUID, events: int) -> float:
    await sql.execute(QUEUE_SQL, account_id, PAYLOAD, events)
    await sql.execute("ANALYZE webhooks.delivery")
    began = time.perf_counter()
    async with (
        create_pool(database.dsn("webhooks"), size=4) as pool,
        outbound(Gate(allow_loopback=True), Resolver(), _now) as client,
        Sender(
            Means(
                pool=pool,
                client=client,
                now=_now,
                monotonic=time.monotonic,
                chance=random.random,
            )
        ),
    ):
        while await sql.fetchval(LEFT_SQL):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return events * ENDPOINTS / (time.perf_counter() - began)


async def _posted(url: str, requests: int) -> float:
    left = iter(range(requests))
    # The receiver refuses what is not signed; the baseline does not sign, and does not mind.
    headers = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,"}

    async def post_some(http: aiohttp.ClientSession) -> None:
        for _ in left:
            async with http.post(url, data=PAYLOAD, headers=headers) as answer:
                await answer.read()

    began = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        await asyncio.gather(*(post_some(http) for _ in range(ENDPOINTS * AT_ONCE)))
    return requests / (time.perf_counter() - began)


def _now() -> datetime:
    return datetime.now(UTC)


async def _receive() -> None:
    async with Receiver().serving() as receiver:
        receiver.add("/hook", SECRET, always(), keep=False)
        print(receiver.url("/hook"), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_receive())
