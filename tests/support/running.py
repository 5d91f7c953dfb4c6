"""One service as its own process, exactly as it runs in production, for as long as a test needs."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from faststream.nats import NatsBroker

from deploy.local.program import clean_environment
from libs.bus.rpc import ask
from libs.contracts.rpc import Ping, ping_of

START_SECONDS = 90.0
STOP_SECONDS = 60.0


@asynccontextmanager
async def running(
    service: str,
    settings: Mapping[str, str],
    broker: NatsBroker,
    *,
    leaves_within: float = STOP_SECONDS,
    more: Mapping[str, str] = {},
) -> AsyncIterator[asyncio.subprocess.Process]:
    """``settings`` are field names of the service's settings, ``more`` whole variables. Yields once
    it answers a ping.

    Afterwards the service must leave by itself, without an error; one that a test has killed
    may be gone.
    """
    environment = {f"TUNEYARD_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{service}", env=clean_environment() | environment | more
    )
    try:
        await _until_it_answers(service, process, broker)
        yield process
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(leaves_within):
                assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until_it_answers(
    service: str, process: asyncio.subprocess.Process, broker: NatsBroker
) -> None:
    answering = asyncio.create_task(ask(broker, ping_of(service), Ping(), deadline=START_SECONDS))
    ending = asyncio.create_task(process.wait())
    await asyncio.wait({answering, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    assert process.returncode is None, f"{service} ended as it started, with {process.returncode}"
    await answering
