"""Fifty submissions a second for two minutes, through the whole platform, to the last capture.

Every service and server is real; only training is left out (`tests.bench.through`). In the end
every job has completed and everything that follows from it is right, or the benchmark fails and
says what is not.
"""

import sys
from statistics import median

from libs.eventlog.connection import create_pool
from tests.bench import ending
from tests.bench.customers import new_customers
from tests.bench.figures import Figure, Size, absolute, percentile
from tests.bench.gauges import MIB, WINDOW, Gauge, complaints
from tests.bench.servers import platform
from tests.bench.through import (
    BATCHES,
    POINTS,
    SECONDS,
    SERVICES,
    Load,
    Told,
    put_through,
    ready,
)

P99_GOAL_MS = 250.0
GROWTH_GOAL_MIB = 3.0
"""Of one service in the last half of a minute of the load, over the half before: 1,500 jobs apart,
so a service that kept 2 KB of each would show. Caches that have a limit fill up before."""


async def bench(size: Size) -> list[Figure]:
    load = Load() if size.share == 1 else Load(seconds=SECONDS * size.share)
    told, waits = await run(load)
    for look in told.backlog:
        print(
            f"{look.at:6.1f} s: {look.jobs} jobs have not ended, {look.waiting} of them wait;"
            f" {look.outbox} events and {look.messages} messages on their way",
            file=sys.stderr,
        )
    return figures(load, told, waits)


async def run(load: Load) -> tuple[Told, ending.Waits]:
    """Raises RuntimeError when a submission was refused, a job is stuck, or a state is wrong."""
    async with (
        platform(SERVICES) as running,
        create_pool(running.stack.admin_dsn(), size=2) as admin,
    ):
        await ready(running)
        told = await put_through(running, admin, load, await new_customers(running, load.accounts))
        expected = ending.Expected(jobs=load.jobs, points=BATCHES * POINTS)
        if wrong := await ending.faults(admin, running.stack.admin_dsn(), expected):
            said = complaints(running.stack.folder / "logs")
            raise RuntimeError("\n".join(["the load has left wrong states:", *wrong, *said]))
        return told, await ending.waits(admin)


def figures(load: Load, told: Told, waits: ending.Waits) -> list[Figure]:
    sent = told.arrived
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
        absolute("  attempts that were taken away", "", [told.ended.lost], below=1),
        absolute("  trainers' questions without an answer", "", [told.ended.unanswered]),
        *(_cpu(load, name, gauge) for name, gauge in told.gauges.items()),
        *(_memory(load, told, name, gauge) for name, gauge in told.gauges.items()),
    ]


def _cpu(load: Load, name: str, gauge: Gauge) -> Figure:
    return absolute(f"processor of {name}", "ms/job", [1000 * gauge.cpu_seconds / load.jobs])


def _memory(load: Load, told: Told, name: str, gauge: Gauge) -> Figure:
    title, now = f"memory of {name}", gauge.memory[-1] / MIB
    if load.seconds < 2 * WINDOW:
        return absolute(title, "MiB", [now])
    return absolute(
        f"{title}, at the end {now:.0f} MiB, grew",
        "MiB",
        [gauge.growth_mib(told.loaded_at)],
        below=GROWTH_GOAL_MIB if name in SERVICES else None,
    )
