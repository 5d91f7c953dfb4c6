"""A connection to NATS that nobody reads from any more, whatever holds up its other end."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from libs.bus.broker import make_broker
from tests.support.nats_front import hanging
from tests.support.waiting import eventually

MUCH = 64  # messages; more than kernels take for a reader that does not read
LARGE = b"x" * 500_000
SILENCE = 1.0  # seconds, instead of twenty


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_process_leaves_a_server_that_hangs_with_what_it_was_sent(
    nats_url: str, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    run(left(nats_url))


async def left(nats_url: str) -> None:
    flows = asyncio.Event()
    flows.set()
    async with hanging(nats_url, flows) as url:
        broker = make_broker(url, silence=SILENCE)
        client = await broker.connect()
        flows.clear()

        async def send_much() -> None:
            for _ in range(MUCH):
                await client.publish("much", LARGE)

        async def reconnects() -> int:
            return client.stats["reconnects"]

        sending = asyncio.create_task(send_much())
        await eventually(reconnects, bool)
        await client.flush()
        sending.cancel()
        await broker.stop()
