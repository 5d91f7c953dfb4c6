"""Uploads that nothing refers to are swept; whatever is referred to stays."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, connect, create_pool
from libs.objectstore import ObjectStore, ObjectStoreSettings
from libs.objectstore.upload import PART_BYTES
from services.gateway.access.accounts import create_account
from services.gateway.dataset_rows import Dataset, delete_dataset, store_dataset
from services.gateway.leftovers import ABANDONED, remove_abandoned
from tests.support.jobs import first_append, submission
from tests.support.objects import has_unfinished_upload
from tests.support.stack import Database

LATER = ABANDONED + timedelta(minutes=1)


@pytest.fixture
async def admin(fresh_database: Database) -> AsyncIterator[Connection]:
    connection = await connect(fresh_database.admin_dsn)
    yield connection
    await connection.close()


async def swept(database: Database, store: ObjectStore, after: timedelta) -> int:
    """What a sweep removes that comes so long after now."""
    async with create_pool(database.dsn("gateway"), size=1) as pool:
        return await remove_abandoned(pool, store, lambda: datetime.now(UTC) + after)


async def uploaded(store: ObjectStore, account_id: UUID, dataset_id: UUID) -> str:
    key = f"datasets/{account_id}/{dataset_id}.jsonl"
    await store.put(key, b"{}")
    return key


async def keys(store: ObjectStore) -> set[str]:
    return {key async for key in store.keys("datasets/")}


async def data_set(
    database: Database, admin: Connection, store: ObjectStore, *, deleted: bool
) -> str:
    """One that a Jobs API account has uploaded; its key."""
    account_id, dataset_id, now = uuid4(), uuid4(), datetime.now(UTC)
    key = await uploaded(store, account_id, dataset_id)
    await create_account(admin, account_id=account_id, name="test", now=now)
    dataset = Dataset(
        id=dataset_id,
        name="rows",
        filename=None,
        kind="text",
        rows=1,
        tokens=1,
        size_bytes=2,
        sha256="0" * 64,
        created_at=now,
    )
    async with create_pool(database.dsn("gateway"), size=1) as pool:
        await store_dataset(
            pool,
            dataset,
            account_id=account_id,
            object_key=key,
            key=None,
            key_life=timedelta(days=1),
            request_sha256="0" * 64,
        )
        if deleted:
            await delete_dataset(pool, account_id, dataset_id, now)
    return key


async def run(admin: Connection, store: ObjectStore, account_id: UUID) -> str:
    """One that waits for its data set, submitted long before any clock here; its file's key."""
    dataset_id = uuid4()
    key = await uploaded(store, account_id, dataset_id)
    dataset = submission().dataset
    assert dataset is not None
    submitted = submission(dataset=replace(dataset, id=dataset_id, key=key))
    append, _ = first_append(uuid4(), account_id, submitted)
    await append_in(admin, append)
    return key


async def test_a_file_that_belongs_to_nothing_goes_after_a_day_and_others_stay(
    fresh_database: Database, admin: Connection, store: ObjectStore
) -> None:
    account_id = uuid4()
    used = {
        await data_set(fresh_database, admin, store, deleted=False),
        await data_set(fresh_database, admin, store, deleted=True),  # a job may still need it
        await run(admin, store, account_id),
    }
    await store.put("datasets/of-another-make", b"{}")
    orphan = await uploaded(store, account_id, uuid4())
    others = await uploaded(store, uuid4(), uuid4())

    await swept(fresh_database, store, ABANDONED - timedelta(minutes=1))
    assert {orphan, others} <= await keys(store)
    assert await swept(fresh_database, store, LATER) >= 2
    left = await keys(store)
    assert used | {"datasets/of-another-make"} <= left
    assert not {orphan, others} & left
    assert await swept(fresh_database, store, LATER) == 0


async def test_parts_of_an_upload_that_never_ended_go_after_a_day(
    fresh_database: Database, store: ObjectStore
) -> None:
    folder = f"datasets/{uuid4()}/"
    upload = store.upload(f"{folder}{uuid4()}.jsonl")
    await upload.write(b"x" * PART_BYTES)  # and then its gateway dies
    await upload._sent()

    await swept(fresh_database, store, timedelta())
    assert await has_unfinished_upload(store, folder)
    assert await swept(fresh_database, store, LATER) >= 1
    assert not await has_unfinished_upload(store, folder)
    assert await swept(fresh_database, store, LATER) == 0


async def test_a_server_that_cannot_list_unfinished_uploads_is_swept_of_files_all_the_same(
    fresh_database: Database,
) -> None:
    orphan, removed = f"datasets/{uuid4()}/{uuid4()}.jsonl", []

    async def listing(request: web.Request) -> web.Response:
        if "uploads" in request.query:
            refusal = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>"
            return web.Response(status=501, text=refusal, content_type="application/xml")
        found = (
            f"<ListBucketResult><Contents><Key>{orphan}</Key><Size>2</Size>"
            "<LastModified>2026-03-19T12:00:00.000Z</LastModified></Contents></ListBucketResult>"
        )
        return web.Response(text=found, content_type="application/xml")

    async def removal(request: web.Request) -> web.Response:
        removed.append(request.match_info["key"])
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/tuneyard", listing)
    app.router.add_delete("/tuneyard/{key:.+}", removal)
    async with TestServer(app) as server:
        settings = ObjectStoreSettings(
            endpoint=str(server.make_url("")).rstrip("/"),
            access_key="a",
            secret_key="b",
            bucket="tuneyard",
        )
        async with ObjectStore(settings) as store:
            assert await swept(fresh_database, store, LATER) == 1
    assert removed == [orphan]
