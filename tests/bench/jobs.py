"""Fifty submissions a second for two minutes, through the whole platform, to the last capture.

Every service and server is real; only training is left out (`tests.bench.simulated`). Submissions
have their moments fixed in advance (`tests.bench.arrivals`). In the end every job has completed and
everything that follows from it is right, or the benchmark fails and says what is not.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

import msgspec
from msgspec import Struct

from deploy.local.program import wait_until
from deploy.local.services import MODULES
from deploy.local.up import answers_well
from libs.eventlog.connection import Pool, create_pool
from tests.bench import ending
from tests.bench.arrivals import Arrivals, Arrived, arrived
from tests.bench.customers import new_customers
from tests.bench.figures import Figure, Size, absolute, percentile
from tests.bench.gauges import WINDOW, Gauge, complaints, service_pids, watched
from tests.bench.servers import Platform, platform
from tests.bench.simulated import Ended, Trainers

RATE = 50.0  # submissions a second
SECONDS = 120.0
ACCOUNTS = 100
TRAINERS = 48
WORK_SECONDS = 0.5
BATCHES, POINTS = 2, 5  # of points, of each job
P99_GOAL_MS = 250.0
GROWTH_GOAL_MIB = 3.0
"""Of one service in the last half of a minute, over the half before: 1,500 jobs at full load, so a
service that kept 2 KB of each would show. Caches that have a limit fill up before."""

SERVICES = tuple(name for name in MODULES if name != "trainer")
READY_SECONDS = 60.0
DRAIN_SECONDS = 600.0  # whatever is queued when the last submission has come
STALLED_SECONDS = 60.0  # without a job that completes
LOOK_EVERY = 2.0  # seconds, at the backlog

# What is done last of a job comes from four consumers, in any order.
UNDONE_SQL = """
SELECT (SELECT count(*) FROM scheduler.queue) AS jobs,
    (SELECT count(*) FROM scheduler.queue WHERE status = 'waiting') AS waiting,
    (SELECT count(*) FROM log.outbox) AS outbox,
    $1 - (SELECT count(*) FROM billing.entry WHERE kind = 'capture') AS uncaptured,
    3 * $1 - (SELECT count(*) FROM webhooks.notification) AS unrecorded,
    $1 - (SELECT count(*) FROM telemetry.message WHERE kind = 'done') AS untold
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
    """Jobs that have not ended, those that wait for a trainer, and rows of the outbox."""

    at: float
    jobs: int
    waiting: int
    outbox: int


class Told(Struct, frozen=True, kw_only=True):
    """``seconds``: from the first submission to the last answer, and until all was done."""

    arrived: Arrived
    ended: Ended
    waits: ending.Waits
    backlog: list[Backlog]
    gauges: dict[str, Gauge]
    loaded_seconds: float
    seconds: float
    loaded_at: float


async def bench(size: Size) -> list[Figure]:
    load = Load() if size.share == 1 else Load(seconds=SECONDS * size.share)
    told = await run(load)
    for look in told.backlog:
        print(
            f"{look.at:6.1f} s: {look.jobs} jobs have not ended, {look.waiting} wait,"
            f" {look.outbox} events in the outbox",
            file=sys.stderr,
        )
    return figures(load, told)


def figures(load: Load, told: Told) -> list[Figure]:
    waits, sent = told.waits, told.arrived
    return [
        absolute("submissions, of every one asked for", "/s", [sent.accepted / load.seconds]),
        absolute("  submit, p50", "ms", [sent.p50_ms]),
        absolute("  submit, p99", "ms", [sent.p99_ms], below=P99_GOAL_MS),
        absolute("  submit, slowest", "ms", [sent.worst_ms]),
        absolute("  the load's own lateness, p99", "ms", [sent.late_p99_ms]),
        absolute("jobs completed", "/s", [load.jobs / told.seconds]),
        absolute("  submit to lease, p50", "s", [median(waits.to_lease)]),
        absolute("  submit to lease, p99", "s", [percentile(waits.to_lease, 99)]),
        absolute("  submit to completed, p50", "s", [median(waits.to_completed)]),
        absolute("  submit to completed, p99", "s", [percentile(waits.to_completed, 99)]),
        absolute("  most jobs that had not ended", "", [max(b.jobs for b in told.backlog)]),
        absolute("  all done after the last answer", "s", [told.seconds - told.loaded_seconds]),
        *(_cpu(load, name, gauge) for name, gauge in told.gauges.items()),
        *(_memory(load, told, name, gauge) for name, gauge in told.gauges.items()),
    ]


def _cpu(load: Load, name: str, gauge: Gauge) -> Figure:
    return absolute(f"processor of {name}", "ms/job", [1000 * gauge.cpu_seconds / load.jobs])


def _memory(load: Load, told: Told, name: str, gauge: Gauge) -> Figure:
    title = f"memory of {name}, now {gauge.memory[-1] / 2**20:.0f} MiB, grew"
    judged = name in SERVICES and load.seconds >= 2 * WINDOW
    limit = GROWTH_GOAL_MIB if judged else None
    return absolute(title, "MiB", [gauge.growth_mib(told.loaded_at)], below=limit)


async def run(load: Load) -> Told:
    """Raises RuntimeError when a submission was refused, a job is stuck, or a state is wrong."""
    async with (
        platform(SERVICES) as running,
        create_pool(running.stack.admin_dsn(), size=2) as admin,
    ):
        await _ready(running)
        customers = await new_customers(running, load.accounts)
        arrivals = Arrivals(
            port=running.stack.gateway_port,
            count=load.jobs,
            seconds=load.seconds,
            requests=[customer.submits() for customer in customers],
        )
        backlog: list[Backlog] = []
        async with (
            _trainers(running, load) as trainers,
            watched(_pids(running, trainers)) as gauges,
        ):
            began = time.monotonic()
            looking = asyncio.create_task(_drained(running, admin, load.jobs, backlog, began))
            try:
                sent = await arrived(arrivals)
                loaded_at = time.monotonic()
                await looking
            finally:
                looking.cancel()
            seconds = time.monotonic() - began
            assert trainers.stdin is not None
            trainers.stdin.close()
            assert trainers.stdout is not None
            ended = msgspec.json.decode(await trainers.stdout.read(), type=Ended)
        expected = ending.Expected(jobs=load.jobs, points=BATCHES * POINTS)
        if wrong := await ending.faults(admin, running.stack.admin_dsn(), expected):
            raise RuntimeError(_wrong(running, "the load has left wrong states:", *wrong))
        return Told(
            arrived=sent,
            ended=ended,
            waits=await ending.waits(admin),
            backlog=backlog,
            gauges=gauges,
            loaded_seconds=loaded_at - began,
            seconds=seconds,
            loaded_at=loaded_at,
        )


def _wrong(running: Platform, *sentences: str) -> str:
    return "\n".join([*sentences, *complaints(running.stack.folder / "logs")])


def _pids(running: Platform, trainers: asyncio.subprocess.Process) -> dict[str, int]:
    return service_pids(running.stack.folder) | {"the simulated trainers": trainers.pid}


async def _ready(running: Platform) -> None:
    url = f"{running.stack.base_url}/v1/readyz"
    await wait_until(
        lambda: answers_well(url),
        what="a service",
        log=running.stack.folder / "logs",
        timeout_seconds=READY_SECONDS,
    )


@asynccontextmanager
async def _trainers(running: Platform, load: Load) -> AsyncIterator[asyncio.subprocess.Process]:
    orders = Trainers(
        nats_url=running.stack.nats_url("trainer"),
        count=load.trainers,
        work_seconds=WORK_SECONDS,
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


async def _drained(
    running: Platform, admin: Pool, jobs: int, backlog: list[Backlog], began: float
) -> None:
    """Note the backlog until everything that the jobs lead to has been done."""
    left, progress_at = None, time.monotonic()
    async with asyncio.timeout(SECONDS + DRAIN_SECONDS):
        while True:
            row = await admin.fetchrow(UNDONE_SQL, jobs)
            assert row is not None
            now = time.monotonic()
            backlog.append(
                Backlog(
                    at=now - began, jobs=row["jobs"], waiting=row["waiting"], outbox=row["outbox"]
                )
            )
            undone = {name: n for name, n in row.items() if name != "waiting" and n > 0}
            if not undone:
                return
            if undone != left:
                left, progress_at = undone, now
            elif now - progress_at > STALLED_SECONDS:
                raise RuntimeError(_wrong(running, f"nothing goes on, and this is left: {undone}"))
            await asyncio.sleep(LOOK_EVERY)
