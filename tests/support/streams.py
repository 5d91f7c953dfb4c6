"""A reader of event streams, as the WHATWG's HTML standard has them, and what there is to read."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import msgspec
from faststream.nats import NatsBroker
from msgspec import Struct

from libs.bus.relay import relay
from libs.bus.streams import logs_subject, metrics_subject
from libs.contracts.training import LogBatch, MetricBatch
from tests.support.stack import Database, Nats
from tests.support.waiting import patient

PATIENCE = 90.0  # seconds for the next message, of a machine that others use as well


class Message(Struct, frozen=True):
    id: int
    event: str
    data: Any


class Reader:
    """An open stream. ``last_id`` is what an EventSource would send when it comes back."""

    def __init__(self, response: httpx.Response, last_id: int | None) -> None:
        self.response = response
        self.last_id = last_id
        self._messages = self._parsed()

    async def next(self) -> Message:
        """Raises StopAsyncIteration at the stream's end, TimeoutError when nothing comes."""
        async with asyncio.timeout(PATIENCE):
            while (message := await anext(self._messages)) is None:
                pass
            return message

    async def beat(self) -> None:
        """Return at the next heartbeat; a message before it is a failure."""
        async with asyncio.timeout(PATIENCE):
            assert await anext(self._messages) is None

    async def some(self, number: int) -> list[Message]:
        return [await self.next() for _ in range(number)]

    async def rest(self) -> list[Message]:
        """Everything until the server ends the stream."""
        async with asyncio.timeout(PATIENCE), aclosing(self._messages) as messages:
            return [message async for message in messages if message is not None]

    async def _parsed(self) -> AsyncIterator[Message | None]:
        """None stands for a comment."""
        fields: dict[str, str] = {}
        async for line in self.response.aiter_lines():
            if line.startswith(":"):
                yield None
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            else:
                if "id" in fields:
                    self.last_id = int(fields["id"])
                if "data" in fields:
                    data = msgspec.json.decode(fields["data"])
                    yield Message(int(fields["id"]), fields["event"], data)
                fields = {}


@asynccontextmanager
async def reading(
    client: httpx.AsyncClient,
    path: str,
    headers: Mapping[str, str],
    last_id: int | None = None,
    **query: str,
) -> AsyncIterator[Reader]:
    """Raises AssertionError when the answer is no stream."""
    more = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    async with client.stream("GET", path, headers={**headers, **more}, params=query) as response:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, response.text
        yield Reader(response, last_id)


async def publish(broker: NatsBroker, batch: MetricBatch | LogBatch) -> None:
    """As a trainer does."""
    subject = logs_subject if isinstance(batch, LogBatch) else metrics_subject
    client = await broker.connect()
    await patient(client).publish(subject(batch.job_id), msgspec.json.encode(batch))


@asynccontextmanager
async def relaying(broker: NatsBroker, database: Database) -> AsyncIterator[None]:
    """What is appended to this database reaches NATS. Raises what ended the relay, if anything."""
    task = asyncio.create_task(relay(broker, database.dsn("relay")))
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait({task})


def telemetry_settings(database: Database, nats: Nats) -> dict[str, str]:
    return {"database_url": database.dsn("telemetry"), "nats_url": nats.url("telemetry")}


def job_path(job_id: UUID) -> str:
    return f"/v1/jobs/{job_id}/stream"
