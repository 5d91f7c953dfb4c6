"""JetStream on a machine whose disk is busy: it answers, and takes its time."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
from faststream.nats import NatsBroker

from libs.bus.broker import make_broker
from libs.bus.consume import durable_name, subscribe, update_consumers
from libs.contracts.rpc import ping_of
from libs.contracts.scheduler import JobReclaimed
from libs.contracts.telemetry_rpc import LOGS, MESSAGES, METRICS, OPEN_STREAM
from libs.eventlog.connection import create_pool
from libs.eventlog.dead_letters import DeadLetters
from tests.support.jobs import envelope
from tests.support.postgres_front import CHUNK, pipe
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.streams import telemetry_settings
from tests.support.waiting import eventually

SLOW = 6.0  # seconds; nats-py by itself waits for five
ASKED = tuple(b"$JS.API.CONSUMER.%b." % verb for verb in (b"INFO", b"CREATE", b"DURABLE.CREATE"))


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
        slow(nats_server, SLOW) as (server, _),
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


async def test_a_service_is_ready_when_it_answers_everything(
    operator: NatsBroker, nats_server: Nats, fresh_database: Database
) -> None:
    """Whoever hears that it is there may ask it anything, however long it took to get there."""
    async with slow(nats_server, 0.0) as (server, said):
        settings = telemetry_settings(fresh_database, server)
        async with running("telemetry", settings, operator):
            begun = re.findall(rb"SUB (\S+)", b"".join(said))
    questions = {one.subject.encode() for one in (LOGS, METRICS, MESSAGES, OPEN_STREAM)}
    *others, last = [one for one in begun if one.startswith(b"rpc.")]
    assert set(others) == questions
    assert last == ping_of("telemetry").subject.encode()


@asynccontextmanager
async def slow(nats: Nats, seconds: float) -> AsyncIterator[tuple[Nats, list[bytes]]]:
    """The same server, which takes its time with consumers; and what was said to it."""
    said = list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", nats.port)
        answers = asyncio.create_task(pipe(back, writer))
        while some := await reader.read(CHUNK):
            said.append(some)
            if any(one in some for one in ASKED):
                await asyncio.sleep(seconds)
            forth.write(some)
        forth.close()
        await answers

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield msgspec.structs.replace(nats, port=port), said
