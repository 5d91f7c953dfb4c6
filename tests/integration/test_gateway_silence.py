"""A client that owes the rest of a request and says nothing does not hold its connection, nor does
one that reads nothing of its answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from deploy.local.program import free_port
from services.gateway.http.protocol import http_protocol
from tests.support.waiting import once_of_several

SILENCE = 0.75  # seconds; in service it is half a minute
PATIENCE = 60.0
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


ENDLESS = b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n"
ended = asyncio.Event()


async def answers_for_ever(receive: Any, send: Any) -> None:
    """Until the client is gone."""
    await receive()
    gone = asyncio.ensure_future(receive())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not gone.done():
        await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})
        await asyncio.sleep(0)
    ended.set()


async def answers_late(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, takes longer than the silence, and answers."""
    if scope["path"] == "/endless":
        await answers_for_ever(receive, send)
        return
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.disconnect":
        return
    await asyncio.sleep(3 * SILENCE)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    found = free_port()
    config = uvicorn.Config(
        answers_late,
        port=found,
        http=http_protocol(lambda: "x", silence=SILENCE),
        lifespan="off",
        timeout_keep_alive=1,  # what looks at a connection between two requests
        log_config=None,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    yield found
    server.should_exit = True
    await task


@pytest.mark.parametrize("sent", [b"", b"GET / HT", POST, POST + b"half", WHOLE + b"GET /"])
async def test_silence_in_the_middle_of_a_request_ends_the_connection(
    port: int, sent: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)

    async with asyncio.timeout(PATIENCE):
        received = await reader.read()

    assert received.count(b"HTTP/1.1 204") == sent.count(WHOLE)
    writer.close()


async def test_who_goes_on_sending_is_heard_to_the_end(port: int) -> None:
    await once_of_several(lambda: is_heard_to_the_end(port))


async def is_heard_to_the_end(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in (POST, *(b"%d" % number for number in range(9))):
        writer.write(piece)
        await asyncio.sleep(SILENCE / 5)

    async with asyncio.timeout(PATIENCE):
        status = await reader.readline()

    assert b" 204 " in status
    writer.close()


async def test_who_reads_nothing_of_an_answer_is_let_go_of_and_who_reads_slowly_is_not(
    port: int,
) -> None:
    await once_of_several(lambda: reads_slowly_and_then_nothing(port))


async def reads_slowly_and_then_nothing(port: int) -> None:
    ended.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ENDLESS)
    for _ in range(10):
        await reader.readexactly(8 * 1024 * 1024)
        await asyncio.sleep(SILENCE / 5)
    assert not ended.is_set()

    async with asyncio.timeout(PATIENCE):
        await ended.wait()
    writer.close()
