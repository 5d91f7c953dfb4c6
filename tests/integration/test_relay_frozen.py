"""A relay that was frozen for longer than PostgreSQL waits for a leader, whatever it was doing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
import pytest
from faststream.nats import NatsBroker

from libs.bus.relay import RELAY_LOCK, SILENCE
from libs.eventlog.append import append_in
from libs.eventlog.connection import TRANSACTION_TIMEOUT, Connection, connect
from tests.support.jobs import first_append, submission
from tests.support.postgres_front import CHUNK, pipe
from tests.support.stack import Database
from tests.support.streams import relaying
from tests.support.waiting import eventually

TIMES = 8
FLUSH = b"H\0\0\0\4"  # ends what asyncpg sends to have a statement prepared
LEADS_SQL = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND granted"


@pytest.fixture
async def log(fresh_database: Database) -> AsyncIterator[Connection]:
    connection = await connect(fresh_database.admin_dsn)
    yield connection
    await connection.close()


async def waiting(log: Connection) -> int:
    return int(await log.fetchval("SELECT count(*) FROM log.outbox"))


async def test_it_leads_again_whatever_its_session_ends_with(
    operator: NatsBroker, fresh_database: Database, log: Connection
) -> None:
    async with relaying(operator, fresh_database):
        for n in range(TIMES):
            append, _ = first_append(uuid4(), uuid4(), submission())
            await append_in(log, append)
            await eventually(lambda: waiting(log), lambda left: left == 0)
            await asyncio.sleep(0.05 * n)
            time.sleep(SILENCE + 0.3)  # noqa: ASYNC251


async def test_none_is_frozen_where_postgresql_would_wait_for_it(
    operator: NatsBroker, fresh_database: Database, log: Connection
) -> None:
    """Between a statement's preparation and its use a session isn't idle, however long it takes."""
    leads = asyncio.Event()
    async with freezing(fresh_database, leads) as database, relaying(operator, database):
        await eventually(lambda: log.fetchval(LEADS_SQL, RELAY_LOCK), bool)
        leads.set()
        append, _ = first_append(uuid4(), uuid4(), submission())
        await append_in(log, append)

        async with asyncio.timeout(TRANSACTION_TIMEOUT):
            await eventually(lambda: waiting(log), lambda left: left == 0)


@asynccontextmanager
async def freezing(database: Database, armed: asyncio.Event) -> AsyncIterator[Database]:
    """The same one, where a client says nothing more once it has a statement prepared."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", database.port)
        answers = asyncio.create_task(pipe(back, writer))
        while some := await reader.read(CHUNK):
            forth.write(some)
            if armed.is_set() and some.endswith(FLUSH):
                await asyncio.Event().wait()
        forth.close()
        await answers

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield msgspec.structs.replace(database, port=port)


async def test_whatever_is_frozen_frees_what_it_holds(
    fresh_database: Database, log: Connection
) -> None:
    await log.execute("CREATE TABLE held (n int); INSERT INTO held VALUES (1)")
    frozen = await connect(fresh_database.admin_dsn)
    await frozen.execute("BEGIN; UPDATE held SET n = 2")
    await frozen.prepare("SELECT $1::int")  # and nothing more

    async with asyncio.timeout(TRANSACTION_TIMEOUT + SILENCE):
        while await log.fetchval("SELECT n FROM held FOR UPDATE SKIP LOCKED") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    frozen.terminate()
