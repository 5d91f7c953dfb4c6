"""Waiting for something that another process does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.js import JetStreamContext

from libs.eventlog.connection import Connection

PATIENCE = 90.0  # seconds; the messages of a killed process are redelivered after 10
TRIES = 3

T = TypeVar("T")


async def eventually(read: Callable[[], Awaitable[T]], holds: Callable[[T], Any]) -> T:
    """The first value that holds. Raises TimeoutError when there is none in time."""
    async with asyncio.timeout(PATIENCE):
        while not holds(value := await read()):  # noqa: ASYNC110 (a row sets no Event)
            await asyncio.sleep(0.02)
    return value


async def once_of_several(succeeds: Callable[[], Awaitable[None]]) -> None:
    """For what is promised within seconds: a machine that is busy may take more of them, but not
    every time."""
    for tried in range(1, TRIES + 1):
        try:
            await succeeds()
            return
        except (AssertionError, TimeoutError):
            if tried == TRIES:
                raise


def patient(client: Client) -> JetStreamContext:
    """Whoever asks JetStream through this waits as long as ``eventually``. By itself nats-py gives
    it five seconds, of which a busy machine may need more for one write to its disk."""
    return client.jetstream(timeout=PATIENCE)


@asynccontextmanager
async def held_open(connection: Connection) -> AsyncIterator[None]:
    """A transaction for as long as the body takes. PostgreSQL ends those of a service that pause
    for five seconds, and a busy machine may need more for what a test has wait for its locks."""
    limits = ("idle_in_transaction_session_timeout", "transaction_timeout")
    for limit in limits:
        await connection.execute(f"SET {limit} = 0")
    async with connection.transaction():
        yield
    for limit in limits:
        await connection.execute(f"RESET {limit}")
