"""Uploads over HTTP into a real S3 server: streamed, checked, and without a trace if refused."""

import asyncio
import contextlib
import hashlib
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.local.program import free_port
from deploy.local.s3 import S3Settings
from libs.objectstore import ObjectNotFound, ObjectStore
from services.gateway.upload.form import MAX_BODY_BYTES, MAX_FILE_BYTES
from services.gateway.upload.receive import UploadRejected, receive
from tests.support.objects import has_unfinished_upload, store_settings

HEAD = b'--frontier\r\nContent-Disposition: form-data; name="dataset"; filename="a.jsonl"\r\n\r\n'
LABEL = b'\r\n--frontier\r\nContent-Disposition: form-data; name="label"\r\n\r\nmine'
END = b"\r\n--frontier--\r\n"
CONTENT_TYPE = "multipart/form-data; boundary=frontier"
ROW = b'{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "4"}]}\n'
BLOCK = b"".join(ROW % (b"what is two plus two? " * 15) for _ in range(2500))
MEMORY_LIMIT = 150 * 10**6


class Gateway(msgspec.Struct):
    port: int
    process: psutil.Process
    store: ObjectStore

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def stored(self, name: str) -> bool:
        try:
            await self.store.size(f"uploads/{name}")
        except ObjectNotFound:
            return False
        return True

    async def unfinished(self) -> bool:
        return await has_unfinished_upload(self.store, "uploads/")

    async def until_unfinished(self, expected: bool) -> None:
        async with asyncio.timeout(60):
            while await self.unfinished() is not expected:  # noqa: ASYNC110 (S3 has no event)
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
async def gateway(s3: S3Settings) -> AsyncIterator[Gateway]:
    chosen = store_settings(s3)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.upload_app", str(port)),
        msgspec.json.encode(chosen).decode(),
    )
    try:
        async with ObjectStore(chosen) as store:
            running = Gateway(port=port, process=psutil.Process(process.pid), store=store)
            await until_it_answers(running.url)
            yield running
    finally:
        process.kill()
        await process.wait()


async def until_it_answers(url: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(90):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url + "/lag"):
                    return
            await asyncio.sleep(0.05)


@pytest.fixture
def name() -> str:
    return uuid4().hex


async def send(
    gateway: Gateway, name: str, body: bytes, content_type: str = CONTENT_TYPE
) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{gateway.url}/upload/{name}", data=body, headers={"Content-Type": content_type}
        ) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_good_upload_is_stored_byte_for_byte_and_described(
    gateway: Gateway, name: str
) -> None:
    data = ROW % b"2+2?" * 3
    status, received = await send(gateway, name, HEAD + data + LABEL + END)
    assert status == 201
    assert received["fields"] == {"label": "mine"}
    assert received["filename"] == "a.jsonl"
    assert received["dataset"] == {
        "kind": "messages",
        "rows": 3,
        "tokens": 4,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert await gateway.store.sha256(f"uploads/{name}") == received["dataset"]["sha256"]


async def test_what_curl_and_aiohttp_write_is_understood(gateway: Gateway, name: str) -> None:
    form = aiohttp.FormData()
    form.add_field("model_id", "tiny-llama")
    form.add_field("dataset", ROW % b"hi", filename="ä.jsonl", content_type="application/jsonl")
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{gateway.url}/upload/{name}", data=form) as answer,
    ):
        assert answer.status == 201
        assert (await answer.json())["fields"] == {"model_id": "tiny-llama"}


async def test_every_bad_line_is_named_and_nothing_is_stored(gateway: Gateway, name: str) -> None:
    good = ROW % b"hi"
    data = good + b'{"messages": []}\n' + good + b'{"text": "x"}\n'
    status, body = await send(gateway, name, HEAD + data + END)
    assert (status, body["error"]["code"]) == (422, "validation_failed")
    details = body["error"]["details"]
    assert details["error_count"] == 2
    assert [(error["line"], error["path"]) for error in details["errors"]] == [
        (2, "$.messages"),
        (4, "$"),
    ]
    assert not await gateway.stored(name)


async def test_a_bad_last_line_of_a_large_file_leaves_nothing(gateway: Gateway, name: str) -> None:
    status, body = await send(gateway, name, HEAD + BLOCK * 20 + b"oops" + END)
    assert status == 422
    assert body["error"]["details"]["errors"][0]["line"] == 2500 * 20 + 1
    assert not await gateway.unfinished()
    assert not await gateway.stored(name)


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        (b"", CONTENT_TYPE, "ended before"),
        (HEAD + ROW, CONTENT_TYPE, "ended before"),
        (b"--frontier--\r\n", CONTENT_TYPE, "file is missing"),
        (HEAD + ROW + END, "application/json", "multipart/form-data"),
        (HEAD + ROW + END, "multipart/form-data", "boundary"),
        (HEAD + ROW + LABEL + LABEL + END, CONTENT_TYPE, "twice"),
        (HEAD + ROW + END, "multipart/form-data; boundary=other", "ended before"),
    ],
)
async def test_a_malformed_form_is_the_clients_mistake_and_leaves_nothing(
    gateway: Gateway, name: str, body: bytes, content_type: str, says: str
) -> None:
    status, answer = await send(gateway, name, body, content_type)
    assert (status, answer["error"]["code"]) == (422, "validation_failed")
    assert says in answer["error"]["message"]
    assert not await gateway.stored(name)


async def test_an_announced_body_past_the_limit_is_refused_before_it_is_sent(
    gateway: Gateway, name: str
) -> None:
    reader, writer = await open_upload(gateway, name, MAX_BODY_BYTES + 1)
    writer.write(HEAD)
    assert b"422" in await asyncio.wait_for(reader.readline(), 60)
    writer.close()


async def test_a_client_that_goes_away_leaves_nothing_and_the_next_is_served(
    gateway: Gateway, name: str
) -> None:
    _, writer = await open_upload(gateway, name, 10**8)
    writer.write(HEAD + BLOCK * 20)
    await writer.drain()
    await gateway.until_unfinished(True)
    writer.transport.abort()
    status, _ = await send(gateway, name + "-next", HEAD + ROW + END)
    assert status == 201
    await gateway.until_unfinished(False)
    assert not await gateway.stored(name)


async def test_the_answer_waits_for_a_client_that_sends_everything_first(
    gateway: Gateway, name: str
) -> None:
    unknown = b'--frontier\r\nContent-Disposition: form-data; name="no"\r\n\r\nx\r\n'
    body = [unknown + HEAD, *([BLOCK] * 30), END]
    size = sum(map(len, body))
    reader, writer = await open_upload(gateway, name, size, "Connection: close\r\n")
    for piece in body:
        writer.write(piece)
        await writer.drain()
    assert b"422" in await asyncio.wait_for(reader.readline(), 60)
    writer.close()


async def test_the_largest_upload_fits_in_little_memory(gateway: Gateway, name: str) -> None:
    size = MAX_FILE_BYTES // len(BLOCK) * len(BLOCK)
    async with aiohttp.ClientSession() as session:
        async with session.get(gateway.url + "/lag"):
            pass
        started = asyncio.get_running_loop().time()
        async with memory_of(gateway.process) as samples:
            reader, writer = await open_upload(gateway, name, len(HEAD) + size + len(END))
            for piece in (HEAD, *itertools.repeat(BLOCK, size // len(BLOCK)), END):
                writer.write(piece)
                await writer.drain()
            assert b"201" in await reader.readline()
        seconds = asyncio.get_running_loop().time() - started
        writer.close()
        async with session.get(gateway.url + "/lag") as answer:
            delay = await answer.json()
    print(
        f"{size / 1e6:.0f} MB at {size / 1e6 / seconds:.0f} MB/s, "
        f"memory {samples[0] / 1e6:.0f} to {max(samples) / 1e6:.0f} MB, loop delay {delay}"
    )
    assert await gateway.store.size(f"uploads/{name}") == size
    await gateway.store.delete(f"uploads/{name}")
    assert max(samples) < MEMORY_LIMIT


@asynccontextmanager
async def memory_of(process: psutil.Process) -> AsyncIterator[list[int]]:
    """The process's resident bytes, sampled often enough to see a part come and go."""
    samples = [process.memory_info().rss]

    async def sample() -> None:
        while True:
            await asyncio.sleep(0.01)
            samples.append(process.memory_info().rss)

    sampling = asyncio.create_task(sample())
    yield samples
    sampling.cancel()


async def open_upload(
    gateway: Gateway, name: str, content_length: int, more_headers: str = ""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        f"POST /upload/{name} HTTP/1.1\r\nHost: test\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {content_length}\r\n{more_headers}\r\n".encode()
    )
    return reader, writer


PIECES = st.sampled_from(
    [HEAD, LABEL, END, ROW % b"hi", b'{"text": "x"}\n', b"\r\n", b"--frontier", b"{", b"\xff"]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pieces=st.lists(PIECES | st.binary(max_size=30), max_size=12))
async def test_any_body_is_received_or_rejected(gateway: Gateway, pieces: list[bytes]) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    key = f"uploads/{uuid4().hex}"
    try:
        received = await receive(
            stream(),
            CONTENT_TYPE,
            allowed_fields=frozenset({"label"}),
            file_field="dataset",
            store=gateway.store,
            key=key,
        )
    except UploadRejected as refused:
        found: int | str = refused.message
        with pytest.raises(ObjectNotFound):
            await gateway.store.size(key)
    else:
        found = received.dataset.rows
        assert await gateway.store.size(key) == received.dataset.size_bytes
    assert found
