"""Questions to a process that is frozen: here its event loop, which is held."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
import nats
from faststream.nats import NatsBroker
from msgspec import Struct

from libs.bus.broker import inbox_prefix, make_broker, user_of
from libs.bus.rpc import FAILED, TRY_TIMEOUT, answer, ask
from libs.contracts.rpc import Rpc


class Change(Struct, frozen=True, kw_only=True):
    to: str


class Changed(Struct, frozen=True, kw_only=True):
    pass


@asynccontextmanager
async def answering(nats_url: str, heard: list[str]) -> AsyncIterator[Rpc[Change, Changed]]:
    rpc: Rpc[Change, Changed] = Rpc("operator", f"change_{uuid4().hex}", Change, Changed)

    async def change(asked: Change) -> Changed:
        heard.append(asked.to)
        return Changed()

    broker = make_broker(nats_url)
    answer(broker, rpc, change)
    await broker.start()
    yield rpc
    await broker.stop()


async def asked_once(nats_url: str, subject: str, to: str, after: float) -> bytes:
    """The answer to a question that is asked over a connection, and by a thread, of its own."""
    client = await nats.connect(
        nats_url, inbox_prefix=inbox_prefix(user_of(nats_url)).encode(), allow_reconnect=False
    )
    await asyncio.sleep(after)
    try:
        return (await client.request(subject, msgspec.json.encode(Change(to=to)), timeout=60)).data
    finally:
        await client.close()


async def test_a_question_that_waited_while_a_process_was_frozen_changes_nothing(
    operator: NatsBroker, nats_url: str
) -> None:
    heard: list[str] = []
    async with answering(nats_url, heard) as rpc:
        await ask(operator, rpc, Change(to="before"))
        old = asyncio.create_task(
            asyncio.to_thread(asyncio.run, asked_once(nats_url, rpc.subject, "old", after=1.0))
        )
        await asyncio.sleep(0.5)
        time.sleep(TRY_TIMEOUT + 2.0)  # noqa: ASYNC251
        assert await old == FAILED
        assert heard == ["before"]

        await ask(operator, rpc, Change(to="after"))
        assert heard == ["before", "after"]
