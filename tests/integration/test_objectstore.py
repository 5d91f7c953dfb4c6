"""The object store on a real S3 server."""

import asyncio
import hashlib
from datetime import timedelta
from uuid import uuid4

import aiohttp
import pytest

from deploy.local.program import free_port
from deploy.local.s3 import S3Settings
from libs.objectstore import (
    ObjectNotFound,
    ObjectStore,
    ObjectStoreError,
    ObjectStoreSettings,
    StoreUnavailable,
)
from libs.objectstore.store import READ_BYTES
from libs.objectstore.upload import PART_BYTES
from tests.support.objects import has_unfinished_upload

MINUTE = timedelta(minutes=1)


@pytest.fixture
def key() -> str:
    return f"tests/{uuid4()}/rows.jsonl"


async def contents(store: ObjectStore, key: str) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


async def exists(store: ObjectStore, key: str) -> bool:
    try:
        await store.size(key)
    except ObjectNotFound:
        return False
    return True


async def test_what_is_put_can_be_read_measured_hashed_and_deleted(
    store: ObjectStore, key: str
) -> None:
    await store.put(key, b"hello")
    assert await contents(store, key) == b"hello"
    assert await store.size(key) == 5
    assert await store.sha256(key) == hashlib.sha256(b"hello").hexdigest()
    await store.delete(key)
    assert not await exists(store, key)


async def test_an_object_is_hashed_if_it_has_the_size_that_it_should_have(
    store: ObjectStore, key: str
) -> None:
    body = bytes(3 * READ_BYTES + 1)
    await store.put(key, body)
    assert await store.checked(key, len(body)) == (len(body), hashlib.sha256(body).hexdigest())
    for other in (0, len(body) - 1, len(body) + 1):
        assert await store.checked(key, other) == (len(body), "")
    await store.put(key, b"")
    assert await store.checked(key, 0) == (0, hashlib.sha256(b"").hexdigest())
    await store.delete(key)
    with pytest.raises(ObjectNotFound):
        await store.checked(key, 0)


async def test_putting_again_replaces_and_deleting_again_is_harmless(
    store: ObjectStore, key: str
) -> None:
    await store.put(key, b"one")
    await store.put(key, b"two")
    assert await contents(store, key) == b"two"
    await store.delete(key)
    await store.delete(key)


async def test_a_missing_object_is_not_found(store: ObjectStore, key: str) -> None:
    with pytest.raises(ObjectNotFound):
        await store.size(key)
    with pytest.raises(ObjectNotFound):
        await contents(store, key)
    with pytest.raises(ObjectNotFound):
        await store.sha256(key)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 12_345])
async def test_an_upload_of_any_size_stores_exactly_what_was_written(
    store: ObjectStore, key: str, size: int
) -> None:
    data = hashlib.shake_128(b"seed").digest(size)
    async with store.upload(key) as upload:
        for start in range(0, size, 300_000):
            await upload.write(data[start : start + 300_000])
        assert not await exists(store, key)
        await upload.finish()
    assert not await has_unfinished_upload(store, key)
    assert upload.size_bytes == size
    assert await store.size(key) == size
    assert await store.sha256(key) == hashlib.sha256(data).hexdigest()


async def test_an_upload_left_unfinished_leaves_nothing_and_keeps_what_was_there(
    store: ObjectStore, key: str
) -> None:
    await store.put(key, b"before")
    async with store.upload(key) as upload:
        await upload.write(bytes(2 * PART_BYTES))
        await upload.write(bytes(PART_BYTES))
        assert await has_unfinished_upload(store, key)
    assert not await has_unfinished_upload(store, key)
    assert await contents(store, key) == b"before"


async def test_a_cancelled_upload_leaves_nothing(store: ObjectStore, key: str) -> None:
    started = asyncio.Event()

    async def endless() -> None:
        async with store.upload(key) as upload:
            while True:
                await upload.write(bytes(PART_BYTES))
                started.set()

    task = asyncio.create_task(endless())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await has_unfinished_upload(store, key)
    assert not await exists(store, key)


async def test_a_presigned_url_downloads_whole_and_in_ranges_without_keys(
    store: ObjectStore, key: str
) -> None:
    await store.put(key, b"0123456789")
    url = await store.presign_get(key, MINUTE, filename="meine Datei.jsonl")
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as whole:
            assert (whole.status, await whole.read()) == (200, b"0123456789")
            assert "meine%20Datei.jsonl" in whole.headers["Content-Disposition"]
        async with session.get(url, headers={"Range": "bytes=2-4"}) as part:
            # rclone answers 200, others 206; this header is what a client may rely on.
            assert part.headers["Content-Range"] == "bytes 2-4/10"
            assert await part.read() == b"234"


async def test_a_presigned_put_uploads_without_keys(store: ObjectStore, key: str) -> None:
    url = await store.presign_put(key, MINUTE)
    async with aiohttp.ClientSession() as session, session.put(url, data=b"from afar") as answer:
        assert answer.status == 200
    assert await contents(store, key) == b"from afar"


async def test_a_presigned_url_is_for_one_object_one_method_and_a_while(
    store: ObjectStore, key: str
) -> None:
    await store.put(key, b"secret")
    await store.put(key + ".other", b"other")
    url = await store.presign_get(key, timedelta(seconds=1))
    async with aiohttp.ClientSession() as session:
        async with session.get(url.replace("rows.jsonl", "rows.jsonl.other")) as other:
            assert other.status == 403
        async with session.put(url, data=b"x") as put:
            assert put.status == 403
        await asyncio.sleep(2.1)
        async with session.get(url) as late:
            assert late.status in (400, 403)
    assert await contents(store, key) == b"secret"


async def test_wrong_keys_are_a_refusal_that_says_what_to_check(s3: S3Settings, key: str) -> None:
    wrong = ObjectStoreSettings(
        endpoint=s3.endpoint, access_key=s3.access_key, secret_key="wrong", bucket=s3.bucket
    )
    async with ObjectStore(wrong) as store:
        with pytest.raises(ObjectStoreError, match="check its endpoint, keys and bucket"):
            await store.put(key, b"x")


async def test_a_store_that_is_not_there_is_unavailable(key: str) -> None:
    nowhere = ObjectStoreSettings(
        endpoint=f"http://127.0.0.1:{free_port()}", access_key="k", secret_key="s", bucket="b"
    )
    async with ObjectStore(nowhere) as store:
        with pytest.raises(StoreUnavailable):
            await store.put(key, b"x")
        with pytest.raises(StoreUnavailable):
            async with store.upload(key) as upload:
                await upload.write(bytes(PART_BYTES))
