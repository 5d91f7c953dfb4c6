"""Counting is beside publishing: what fails of it neither ends the relay nor holds it up."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from nats.js import JetStreamContext

from libs.bus.broker import make_broker
from libs.bus.relay import drain, gauges_shown
from libs.bus.streams import declare_streams
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, connect
from tests.support.jobs import NOON, first_append, submission
from tests.support.stack import Database, Nats
from tests.support.waiting import patient

PATIENCE = 40.0  # seconds; connecting to what is not there would be tried for a minute

# An event that no service of ours writes, of a kind that the relay counts the money of.
STRANGE_SQL = """
WITH strange AS (
    INSERT INTO log.event (event_id, stream, version, job_id, account_id, type, data, meta, hash)
    SELECT gen_random_uuid(), 'payment:strange', $1, job_id, account_id, 'payment.captured.v1',
        $2, meta, hash
    FROM log.event LIMIT 1 RETURNING position)
INSERT INTO log.outbox SELECT position FROM strange
"""


@pytest.fixture
async def jetstream(nats_server: Nats) -> AsyncIterator[JetStreamContext]:
    broker = make_broker(nats_server.url("relay"))
    client = await broker.connect()
    yield patient(client)
    await broker.stop()


@pytest.fixture
async def log(fresh_database: Database) -> AsyncIterator[Connection]:
    connection = await connect(fresh_database.admin_dsn)
    yield connection
    await connection.close()


@pytest.mark.parametrize(
    ("version", "data"),
    [(1, b'{"amount_cents":"a lot"}'), (2, b'{"amount_cents":1}')],
    ids=["no amount", "no first event, which names the currency"],
)
async def test_what_can_not_be_counted_is_published_all_the_same(
    jetstream: JetStreamContext, log: Connection, version: int, data: bytes
) -> None:
    await declare_streams(jetstream)
    await append_in(log, first_append(uuid4(), uuid4(), submission(), NOON)[0])
    await log.execute(STRANGE_SQL, version, data)

    assert await drain(log, jetstream, observed=True) == 2

    assert await log.fetchval("SELECT count(*) FROM log.outbox") == 0


async def test_leading_waits_for_no_second_connection(
    jetstream: JetStreamContext, fresh_database: Database
) -> None:
    nobodys = f"{fresh_database.dsn('relay')}_that_is_not_there"
    async with asyncio.timeout(PATIENCE), gauges_shown(True, nobodys, jetstream):
        pass
