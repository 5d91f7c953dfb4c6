"""How long the end of a job waits for what its trainer has said before."""

import asyncio
from contextlib import suppress

import pytest

from services.telemetry.states import look_until


async def test_the_wait_ends_with_what_it_waits_for() -> None:
    answers = [False, False, True]

    async def holds() -> bool:
        return answers.pop(0)

    async with asyncio.timeout(None) as patience:
        await look_until(holds, patience)
    assert answers == []


async def test_the_wait_ends_with_its_patience() -> None:
    async def never() -> bool:
        return False

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0) as patience:
            await look_until(never, patience)


async def test_the_wait_ends_with_its_patience_though_a_look_forgot_that_it_was_cancelled() -> None:
    looks = 0

    async def forgetful() -> bool:
        nonlocal looks
        looks += 1
        assert looks == 1, "it looks again when its time is over"
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return False

    async with asyncio.timeout(0) as patience:
        with suppress(TimeoutError):
            await look_until(forgetful, patience)
    assert looks == 1
