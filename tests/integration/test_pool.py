"""The pool of connections: few for many, never a dirty one, and back after PostgreSQL's restart."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from libs.eventlog.connection import Pool, create_pool
from tests.support.stack import Database

PID_SQL = "SELECT pg_backend_pid()"


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    async with create_pool(database.admin_dsn, size=2) as opened:
        yield opened


async def test_many_callers_share_a_few_connections(pool: Pool) -> None:
    sql = "SELECT pg_backend_pid(), pg_sleep(0.005)"

    pids = await asyncio.gather(*(pool.fetchval(sql) for _ in range(40)))

    assert len(pids) == 40
    assert len(set(pids)) == 2


async def test_a_refused_statement_leaves_its_connection_usable(pool: Pool) -> None:
    before = await pool.fetchval(PID_SQL)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await pool.fetchval("SELECT 1 / 0")

    assert await pool.fetchval(PID_SQL) == before


async def test_a_query_that_was_broken_off_takes_its_connection_along(pool: Pool) -> None:
    before = await pool.fetchval(PID_SQL)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pool.fetchval("SELECT pg_sleep(60)")

    assert await pool.fetchval(PID_SQL) != before


async def test_an_open_transaction_is_not_handed_on(pool: Pool) -> None:
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        await connection.execute("CREATE TABLE left_open ()")

    assert await pool.fetchval("SELECT to_regclass('left_open')") is None


async def test_connections_that_the_server_closed_are_opened_again(
    database: Database, pool: Pool
) -> None:
    await asyncio.gather(*(pool.fetchval("SELECT pg_sleep(0.01)") for _ in range(2)))
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await admin.close()
    await asyncio.sleep(0.1)  # for the news to arrive

    assert await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(10))) == [1] * 10


async def test_who_waits_too_long_is_told_and_costs_nobody_a_connection(pool: Pool) -> None:
    async with pool.acquire(), pool.acquire():
        with pytest.raises(TimeoutError):
            async with pool.acquire(timeout=0.05):
                pass

    held = [pool.acquire(timeout=60), pool.acquire(timeout=60)]
    for use in held:
        await use.__aenter__()
    for use in held:
        await use.__aexit__(None, None, None)


async def test_callers_that_give_up_lose_no_connection(pool: Pool) -> None:
    """Cancelled while they wait, while they are given one, and while they ask."""

    async def ask(number: int) -> None:
        async with asyncio.timeout(number * 0.0005):
            await pool.fetchval("SELECT pg_sleep(0.002)")

    answers = await asyncio.gather(*(ask(n) for n in range(100)), return_exceptions=True)

    assert any(isinstance(answer, TimeoutError) for answer in answers)
    assert await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(10))) == [1] * 10
    async with pool.acquire(timeout=60), pool.acquire(timeout=60):
        pass


async def test_an_address_where_nobody_answers_is_told_at_once(database: Database) -> None:
    nowhere = database.admin_dsn.replace(str(database.port), "1")
    with pytest.raises(OSError):
        await create_pool(nowhere, size=2)
