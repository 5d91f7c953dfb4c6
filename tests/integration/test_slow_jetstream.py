"""JetStream on a machine whose disk is busy: it answers, and takes its time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
from faststream.nats import NatsBroker

from libs.bus.broker import make_broker
from libs.bus.consume import durable_name, subscribe, update_consumers
from libs.contracts.scheduler import JobReclaimed
from libs.eventlog.connection import create_pool
from libs.eventlog.dead_letters import DeadLetters
from tests.support.jobs import envelope
from tests.support.postgres_front import CHUNK, pipe
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually

SLOW = 6.0  # seconds; nats-py by itself waits for five
ASKED = (b"CONSUMER.INFO.EVENTS.webhooks-", b"CONSUMER.DURABLE.CREATE.", b"CONSUMER.CREATE.")


async def test_a_service_that_starts_waits_until_its_consumers_are_made(
    operator: NatsBroker, nats_server: Nats, fresh_database: Database
) -> None:
    name, handled = uuid4().hex, list[bytes]()

    async def handle(payload: bytes) -> None:
        handled.append(payload)

    async def seen() -> list[bytes]:
        return handled

    async with (
        create_pool(fresh_database.dsn("webhooks"), size=1) as pool,
        slow(nats_server) as (server, held_up),
    ):
        broker = make_broker(server.url("webhooks"))
        subscribe(
            broker,
            service="webhooks",
            stream="EVENTS",
            subject=f"events.job.reclaimed.v1.{name}",
            durable=durable_name("webhooks", name),
            handle=handle,
            letters=DeadLetters(pool=pool),
        )
        await update_consumers(broker)
        await broker.start()
        sent = msgspec.json.encode(
            envelope(uuid4(), uuid4(), JobReclaimed(epoch=1, reason="lost", retries=1))
        )
        await operator.publish(sent, f"events.job.reclaimed.v1.{name}", stream="EVENTS")
        await eventually(seen, lambda found: found == [sent])
        await broker.stop()
    assert len(held_up) >= len(ASKED) - 1, "it looks for its consumer, twice, and makes it"


@asynccontextmanager
async def slow(nats: Nats) -> AsyncIterator[tuple[Nats, list[bytes]]]:
    """The same server, which thinks about what it is asked of consumers; and what that was."""
    held_up = list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", nats.port)
        answers = asyncio.create_task(pipe(back, writer))
        while some := await reader.read(CHUNK):
            if any(one in some for one in ASKED):
                held_up.append(some)
                await asyncio.sleep(SLOW)
            forth.write(some)
        forth.close()
        await answers

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield msgspec.structs.replace(nats, port=port), held_up
