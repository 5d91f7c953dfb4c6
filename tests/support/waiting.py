"""Waiting for something that another process does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

PATIENCE = 90.0  # seconds; the messages of a killed process are redelivered after 10

T = TypeVar("T")


async def eventually(read: Callable[[], Awaitable[T]], holds: Callable[[T], Any]) -> T:
    """The first value that holds. Raises TimeoutError when there is none in time."""
    async with asyncio.timeout(PATIENCE):
        while not holds(value := await read()):  # noqa: ASYNC110 (a row sets no Event)
            await asyncio.sleep(0.02)
    return value
