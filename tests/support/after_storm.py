"""What must hold of jobs whatever was killed: each completed and paid for once, by one attempt at
a time, and every event told once to everybody."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import nats as nats_client

from deploy.local import nats
from deploy.local.state import admin_dsn
from libs.bus.streams import EVENTS
from libs.contracts.events import decode_job_event, type_of
from libs.contracts.scheduler import JobLeased, JobReclaimed, JobTrained
from libs.eventlog.connection import Connection, connect
from libs.jobstate.notice import NOTICE_TYPES
from tests.support.journey import Json
from tests.support.ledger_checks import WRONG_SQL
from tests.support.local_stack import LocalStack
from tests.support.storm import Storm, about

SETTLE_SECONDS = 180.0  # what a killed process had in hand comes again after ten, perhaps twice
ONCE = (
    *("job.submitted", "payment.reserved", "job.trained", "artifact.published"),
    *("job.completed", "payment.captured"),
)

UNSETTLED_SQL = """
SELECT (SELECT count(*) FROM log.outbox)
     + (SELECT count(*) FROM log.event e WHERE type = 'job.completed.v1' AND NOT EXISTS (
            SELECT FROM log.event p WHERE p.job_id = e.job_id
            AND p.type IN ('payment.captured.v1', 'payment.charged.v1')))
     + (SELECT count(*) FROM log.event e WHERE type = ANY($1) AND NOT EXISTS (
            SELECT FROM webhooks.notification n WHERE n.event_id = e.event_id))
     + (SELECT count(*) FROM log.event e WHERE type = ANY($1) AND NOT EXISTS (
            SELECT FROM telemetry.message m WHERE m.event_id = e.event_id AND m.kind = 'state'))
"""
LETTERS_SQL = "SELECT consumer, error FROM log.dead_letter"
# Places of an account's stream: from one on, without a hole.
HOLES_SQL = """
SELECT account_id FROM telemetry.sequence s LEFT JOIN telemetry.message m USING (account_id)
GROUP BY account_id, last HAVING count(m.place) <> last OR coalesce(max(m.place), 0) <> last
"""
TOLD_TWICE_SQL = """
SELECT job_id FROM telemetry.message WHERE kind = 'done' GROUP BY job_id HAVING count(*) > 1
"""
JOB_EVENTS_SQL = """
SELECT job_id, data FROM log.event WHERE stream LIKE 'job:%' ORDER BY stream, version
"""


def assert_whole(storm: Storm, jobs: Sequence[str], ended: Sequence[Json]) -> None:
    """``ended`` are the jobs as they are shown now."""
    stack = storm.stack
    stack.recovered()
    assert Counter(job["status"] for job in ended) == {"completed": len(jobs)}
    asyncio.run(settled(stack))
    for job_id, job in zip(jobs, ended, strict=True):
        assert_completed_once(job, storm.user.kinds(job_id))
    spent = sum(job["price_cents"] for job in ended)
    assert storm.user.balance() == storm.balance - spent
    asyncio.run(assert_stored_once(stack))
    stack.assert_the_log_holds()


def assert_completed_once(job: Json, timeline: Sequence[str]) -> None:
    """A completed job that was paid from the balance, and the kinds of its events."""
    assert job["charge_cents"] == job["price_cents"]
    kinds = Counter(timeline)
    assert {kind: kinds[kind] for kind in ONCE} == dict.fromkeys(ONCE, 1), (job["id"], kinds)
    assert kinds["job.leased"] == kinds["job.reclaimed"] + 1 == job["retries"] + 1, (job, kinds)


async def settled(stack: LocalStack) -> None:
    """Everybody has heard of everything."""
    connection = await connect(admin_dsn(stack.folder))
    types = [type_of(kind) for kind in NOTICE_TYPES]
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while await connection.fetchval(UNSETTLED_SQL, types):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def assert_stored_once(stack: LocalStack) -> None:
    connection = await connect(admin_dsn(stack.folder))
    try:
        for sql in (WRONG_SQL, LETTERS_SQL, HOLES_SQL, TOLD_TWICE_SQL):
            assert [tuple(row) for row in await connection.fetch(sql)] == []
        await assert_one_attempt_at_a_time(connection)
        events = await connection.fetchval("SELECT count(*) FROM log.event")
    finally:
        await connection.close()
    held = await published(stack)
    assert held == events, f"{events} events, of which JetStream has {held}"


async def assert_one_attempt_at_a_time(connection: Connection) -> None:
    """Epochs ascend by one, an attempt begins when the last one is over, and one is accepted."""
    histories: dict[UUID, list[Any]] = defaultdict(list)
    for row in await connection.fetch(JOB_EVENTS_SQL):
        histories[row["job_id"]].append(decode_job_event(row["data"]))
    for job_id, history in histories.items():
        epoch, held, trained = 0, False, 0
        for event in history:
            if isinstance(event, JobLeased):
                assert not held, f"{job_id} was leased while it was leased"
                assert event.epoch == epoch + 1, job_id
                epoch, held = event.epoch, True
            elif hasattr(event, "epoch"):
                assert held, f"{job_id}: {event} of an attempt that was over"
                assert event.epoch == epoch, job_id
            if isinstance(event, JobReclaimed | JobTrained):
                held = False
            trained += isinstance(event, JobTrained)
        assert trained <= 1, job_id


async def published(stack: LocalStack) -> int:
    """How many events JetStream holds."""
    client = await nats_client.connect(about(stack).nats_url(nats.OPERATOR))
    try:
        assert EVENTS.name is not None
        return (await client.jetstream().stream_info(EVENTS.name)).state.messages
    finally:
        await client.close()
