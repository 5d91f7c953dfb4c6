"""The life of a service process: wait for its servers, serve until told to stop, leave in time."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import asyncpg
import stamina
import structlog
from faststream.nats import NatsBroker

from libs.bus.consume import forget_ended, update_consumers
from libs.bus.probe import probed
from libs.bus.rpc import answer_pings
from libs.bus.streams import streams_exist
from libs.eventlog.connection import Pool, create_pool
from libs.eventlog.dead_letters import RETRY_EVERY, DeadLetters
from libs.observability.instruments import Gauge
from libs.observability.metrics import DEAD_LETTERS, OBSERVATION_FAILED

START_PATIENCE = 60.0  # seconds; the servers and the migrations of a cold machine take that long
RETRY_PAUSE = 0.2  # seconds
FORGET_EVERY = 60.0  # seconds; a few tasks end within it
LOOK_EVERY = 5.0  # seconds; who scrapes every 15 sees no older number, and a look counts queues
STOP_PATIENCE = 4.0  # seconds, of the 5 a supervisor waits; unfinished work is delivered again

NOT_YET = (
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
)
"""PostgreSQL is starting or restarting. Anything else, a wrong password say, ends the process."""

logger = structlog.get_logger()


@asynccontextmanager
async def database(dsn: str, *, size: int) -> AsyncIterator[Pool]:
    """A pool of at most ``size`` connections; waits a minute for PostgreSQL to answer."""
    pool: Pool | None = None
    async for attempt in stamina.retry_context(
        on=NOT_YET, attempts=None, timeout=START_PATIENCE, wait_initial=RETRY_PAUSE, wait_max=1.0
    ):
        with attempt:
            pool = await create_pool(dsn, size=size)
    assert pool is not None
    try:
        yield pool
    finally:
        pool.terminate()


@asynccontextmanager
async def every(seconds: float, work: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Call ``work`` again and again while the body runs; a failure is logged and tried again."""

    async def repeat() -> None:
        while True:
            try:
                await work()
            except Exception:
                logger.exception("periodic work failed; it will be tried again")
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def watched(
    observed: bool, what: str, look: Callable[[], Awaitable[None]], *gauges: Gauge
) -> AsyncIterator[None]:
    """Bring ``gauges`` up to date again and again while the body runs, if anybody wants metrics.

    After a failure they show nothing: a number that was true once would look as if all were well.
    """

    async def bring_up_to_date() -> None:
        try:
            await look()
        except Exception:
            for gauge in gauges:
                gauge.show()
            OBSERVATION_FAILED.add(1, {"what": what})
            raise

    async with every(LOOK_EVERY, bring_up_to_date) if observed else nullcontext():
        yield


async def run_service(
    broker: NatsBroker,
    service: str,
    *,
    streams: frozenset[str] = frozenset(),
    probe_listen: str | None = None,
    letters: DeadLetters | None = None,
    observed: bool = False,
) -> None:
    """Serve what is registered on ``broker``, and pings, until SIGTERM or SIGINT.

    ``streams`` are the names of the JetStream streams it consumes: serving begins when somebody
    has declared them, and from then on probes are answered at ``probe_listen``. ``letters`` are
    what its consumers could not handle, tried again when an operator wants it, and counted when it
    is ``observed``. Raises TimeoutError when NATS, or a stream, is not there after a minute.
    """
    async with asyncio.timeout(START_PATIENCE):
        client = await broker.connect()
    await streams_exist(client.jetstream(), streams)
    await update_consumers(broker)
    told = _told_to_stop()  # before anybody can know that it serves
    await broker.start()
    await answer_pings(broker, service)
    logger.info("serving")
    retrying = every(RETRY_EVERY, letters.retry) if letters else nullcontext()
    counting = (
        watched(observed, "dead_letters", letters.count, DEAD_LETTERS) if letters else nullcontext()
    )
    forgetting = every(FORGET_EVERY, partial(forget_ended, broker))
    async with probed(probe_listen, client), forgetting, retrying, counting:
        await told.wait()
    try:
        async with asyncio.timeout(STOP_PATIENCE):
            await broker.stop()
    except TimeoutError:
        logger.warning("left unfinished work behind; it is delivered again")


def _told_to_stop() -> asyncio.Event:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return told
