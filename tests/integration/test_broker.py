"""A process's connection to NATS."""

import asyncio

from libs.bus.broker import make_broker


async def test_those_who_ask_at_once_for_a_first_connection_have_one(nats_url: str) -> None:
    broker = make_broker(nats_url)
    one, other = await asyncio.gather(broker.connect(), broker.connect())
    assert one is other
    await broker.stop()
    assert await broker.connect() is not one, "it can be begun anew"
    await broker.stop()
