"""A load of jobs put through a running platform: submissions, trainers, and a look at the backlog.

Submissions have their moments fixed in advance (`tests.bench.arrivals`); trainers do everything but
train (`tests.bench.simulated`). It is over when nothing waits anywhere any more.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from msgspec import Struct
from nats.js import JetStreamContext

from deploy.local import nats
from deploy.local.program import wait_until
from deploy.local.services import MODULES
from deploy.local.up import answers_well
from libs.bus.broker import make_broker
from libs.bus.streams import STREAMS
from libs.eventlog.connection import Pool
from tests.bench.arrivals import Arrivals, Arrived, arrived
from tests.bench.customers import Customer
from tests.bench.gauges import Gauge, complaints, service_pids, watched
from tests.bench.servers import Platform
from tests.bench.simulated import Ended, Trainers

RATE = 50.0  # submissions a second
SECONDS = 120.0
ACCOUNTS = 100
TRAINERS = 48
WORK_SECONDS = 4.0
"""A fleet that takes 12 jobs a second: these two cores carry it beside the load, and most jobs
wait, as where GPUs are what is scarce."""
DRAINING_SECONDS = 0.5  # of each job when all have been submitted: as fast as the platform can
BATCHES, POINTS = 2, 5  # of points, of each job

SERVICES = tuple(name for name in MODULES if name != "trainer")
READY_SECONDS = 60.0
DRAIN_SECONDS = 900.0  # for whatever is queued when the last submission has come
STALLED_SECONDS = 60.0  # in which nothing changes
LOOK_EVERY = 2.0  # seconds, at the backlog

BACKLOG_SQL = """
SELECT count(*) AS jobs, count(*) FILTER (WHERE status = 'waiting') AS waiting,
       (SELECT count(*) FROM log.outbox) AS outbox
FROM scheduler.queue
"""


class Load(Struct, frozen=True, kw_only=True):
    rate: float = RATE
    seconds: float = SECONDS
    accounts: int = ACCOUNTS
    trainers: int = TRAINERS

    @property
    def jobs(self) -> int:
        return round(self.rate * self.seconds)


class Backlog(Struct, frozen=True, kw_only=True):
    """Jobs that have not ended, those of them that wait for a trainer, rows of the outbox, and
    messages that some consumer has not acknowledged. ``at``: seconds since the load began."""

    at: float
    jobs: int
    waiting: int
    outbox: int
    messages: int

    @property
    def left(self) -> tuple[int, ...]:
        return (self.jobs, self.outbox, self.messages)


class Told(Struct, frozen=True, kw_only=True):
    """``loaded_seconds``: from the first submission to the last answer; ``seconds``: until nothing
    was left. ``loaded_at`` is a moment of the gauges."""

    arrived: Arrived
    ended: Ended
    backlog: list[Backlog]
    gauges: dict[str, Gauge]
    loaded_seconds: float
    loaded_at: float
    seconds: float


async def ready(running: Platform) -> None:
    """Wait until every part answers."""
    url = f"{running.stack.base_url}/v1/readyz"
    await wait_until(
        lambda: answers_well(url),
        what="a service",
        log=running.stack.folder / "logs",
        timeout_seconds=READY_SECONDS,
    )


async def put_through(
    running: Platform, admin: Pool, load: Load, customers: Sequence[Customer]
) -> Told:
    """Raises RuntimeError when a submission was refused, or what is left does not get less."""
    arrivals = Arrivals(
        port=running.stack.gateway_port,
        count=load.jobs,
        seconds=load.seconds,
        requests=[customer.submits() for customer in customers],
    )
    backlog: list[Backlog] = []
    async with (
        _jetstream(running) as jetstream,
        _trainers(running, load) as trainers,
        watched(_pids(running, trainers)) as gauges,
    ):
        began = time.monotonic()
        looking = asyncio.create_task(_look(admin, jetstream, backlog, began))
        try:
            sent = await arrived(arrivals)
            loaded_at = time.monotonic()
            await _nothing_left(running, backlog)
        finally:
            looking.cancel()
        seconds = time.monotonic() - began
        assert trainers.stdin is not None
        trainers.stdin.close()
        assert trainers.stdout is not None
        ended = msgspec.json.decode(await trainers.stdout.read(), type=Ended)
    return Told(
        arrived=sent,
        ended=ended,
        backlog=backlog,
        gauges=gauges,
        loaded_seconds=loaded_at - began,
        loaded_at=loaded_at,
        seconds=seconds,
    )


def _pids(running: Platform, trainers: asyncio.subprocess.Process) -> dict[str, int]:
    return service_pids(running.stack.folder) | {"the simulated trainers": trainers.pid}


@asynccontextmanager
async def _jetstream(running: Platform) -> AsyncIterator[JetStreamContext]:
    broker = make_broker(running.stack.nats_url(nats.OPERATOR))
    try:
        yield (await broker.connect()).jetstream()
    finally:
        await broker.stop()


@asynccontextmanager
async def _trainers(running: Platform, load: Load) -> AsyncIterator[asyncio.subprocess.Process]:
    orders = Trainers(
        nats_url=running.stack.nats_url("trainer"),
        count=load.trainers,
        work_seconds=WORK_SECONDS,
        later_seconds=DRAINING_SECONDS,
        later_after=load.seconds,
        batches=BATCHES,
        points=POINTS,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.simulated"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(orders) + b"\n")
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise RuntimeError("the simulated trainers could not begin")
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _look(
    admin: Pool, jetstream: JetStreamContext, backlog: list[Backlog], began: float
) -> None:
    while True:
        row = await admin.fetchrow(BACKLOG_SQL)
        assert row is not None
        messages = await _unacknowledged(jetstream)
        backlog.append(Backlog(at=time.monotonic() - began, messages=messages, **row))
        await asyncio.sleep(LOOK_EVERY)


async def _unacknowledged(jetstream: JetStreamContext) -> int:
    total = 0
    for stream in STREAMS:
        assert stream.name is not None
        for consumer in await jetstream.consumers_info(stream.name):
            total += (consumer.num_pending or 0) + (consumer.num_ack_pending or 0)
    return total


async def _nothing_left(running: Platform, backlog: list[Backlog]) -> None:
    """Two looks in a row: what the last message led to is not in the outbox at the first."""
    first = len(backlog)
    progress_at, seen = time.monotonic(), first
    async with asyncio.timeout(DRAIN_SECONDS):
        while not any(
            not any(one.left) and not any(other.left)
            for one, other in zip(backlog[first:], backlog[first + 1 :], strict=False)
        ):
            await asyncio.sleep(LOOK_EVERY / 2)
            if len(backlog) > seen and backlog[-1].left != backlog[seen - 1].left:
                progress_at = time.monotonic()
            seen = len(backlog)
            if time.monotonic() - progress_at > STALLED_SECONDS:
                said = complaints(running.stack.folder / "logs")
                raise RuntimeError("\n".join([f"nothing goes on: {backlog[-1]}", *said]))
