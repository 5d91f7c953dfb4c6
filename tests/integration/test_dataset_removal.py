"""The files of deleted data sets go, whatever the store and the other replicas do meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from libs.eventlog.connection import Connection, Pool, connect, create_pool
from libs.objectstore import ObjectStore, ObjectStoreError, ObjectStoreSettings
from services.gateway.dataset_rows import DELETION_GRACE, remove_deleted
from tests.support.failing_http import Answer, Asked, failing_server
from tests.support.jobs import NOON
from tests.support.stack import Database

DELETED_SQL = """
WITH account AS (
    INSERT INTO gateway.account (id, name, plan, created_at)
    VALUES (gen_random_uuid(), 'Ada', 'free', $1) RETURNING id)
INSERT INTO gateway.dataset (id, account_id, name, object_key, sha256, size_bytes, rows, tokens,
    kind, created_at, deleted_at, request_sha256)
SELECT gen_random_uuid(), id, 'n', 'datasets/' || id, 's', 1, 1, 1, 'text', $1, $1, 'r' FROM account
"""
IN_A_TRANSACTION_SQL = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND state = 'idle in transaction'
"""
GONE, REFUSED = Answer("204 No Content"), Answer("403 Forbidden")
LATER = NOON + DELETION_GRACE + timedelta(seconds=1)


@pytest.fixture
async def sql(fresh_database: Database) -> AsyncIterator[Connection]:
    connection = await connect(fresh_database.admin_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(fresh_database: Database) -> AsyncIterator[Pool]:
    async with create_pool(fresh_database.dsn("gateway"), size=4) as pool:
        yield pool


def store_at(url: str) -> ObjectStore:
    return ObjectStore(
        ObjectStoreSettings(endpoint=url, access_key="key", secret_key="secret", bucket="b")
    )


async def test_no_transaction_waits_for_the_store(pool: Pool, sql: Connection) -> None:
    await sql.execute(DELETED_SQL, NOON)
    waiting: list[int] = []

    async def answer(_: Asked) -> Answer:
        waiting.append(await sql.fetchval(IN_A_TRANSACTION_SQL))
        return GONE

    async with failing_server(answer) as server, store_at(server.url) as store:
        assert await remove_deleted(pool, store, lambda: LATER) == 1
    assert waiting == [0]


async def test_replicas_that_remove_at_once_remove_each_once(pool: Pool, sql: Connection) -> None:
    for _ in range(3):
        await sql.execute(DELETED_SQL, NOON)
    async with failing_server(lambda _: GONE) as server, store_at(server.url) as store:
        removed = await asyncio.gather(
            *(remove_deleted(pool, store, lambda: LATER) for _ in range(3))
        )
    assert sum(removed) == 3
    assert await sql.fetchval("SELECT count(*) FROM gateway.dataset") == 0


async def test_what_the_store_does_not_remove_is_removed_the_next_time(
    pool: Pool, sql: Connection
) -> None:
    await sql.execute(DELETED_SQL, NOON)
    async with failing_server(lambda _: REFUSED) as server, store_at(server.url) as store:
        with pytest.raises(ObjectStoreError):
            await remove_deleted(pool, store, lambda: LATER)
    async with failing_server(lambda _: GONE) as server, store_at(server.url) as store:
        assert await remove_deleted(pool, store, lambda: LATER) == 1
