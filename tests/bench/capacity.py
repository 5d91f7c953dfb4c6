"""Whether a job costs more when a million jobs are in the database, and what they take on the disk.

The same load goes through one platform twice: when it is new, and with a copied history. What a job
costs PostgreSQL is told by the rows that it reads, table by table, whatever else the machine does:
a query that walks through what is stored shows at once.
"""

import asyncio
import sys

from msgspec import Struct

from libs.eventlog.connection import Pool, connect, create_pool
from tests.bench.customers import new_customers
from tests.bench.figures import Figure, Size, absolute, sooner
from tests.bench.history import TableSize, grow, sizes
from tests.bench.servers import platform
from tests.bench.through import SERVICES, Load, Told, put_through, ready

HISTORY = 150_000  # jobs: 1.2 million events
JOBS_OF_ONE = 10  # jobs of an account
LOAD = Load(rate=8.0, seconds=20.0, accounts=20)
COPY_SECONDS = 3_600.0
SETTLE_SECONDS = 11.0  # an idle backend tells after ten what it has read

# The rows of an index that were looked at, whether they were used or not, and of a table.
READ_SQL = """
SELECT schemaname || '.' || relname AS name,
       seq_tup_read + coalesce((SELECT sum(idx_tup_read) FROM pg_stat_user_indexes i
                                WHERE i.relid = t.relid), 0)::bigint AS rows
FROM pg_stat_user_tables t
"""
RATIO_GOAL = 0.8  # 1 / 1.25; what is done once a second is shared by more or fewer jobs
FEW_ROWS = 10.0  # a job; below it a change is noise


class Cost(Struct, frozen=True, kw_only=True):
    """``rows`` read a job, by table."""

    told: Told
    rows: dict[str, float]


async def bench(size: Size) -> list[Figure]:
    history = size.of(HISTORY)
    async with (
        platform(SERVICES) as running,
        create_pool(running.stack.admin_dsn(), size=2) as admin,
    ):
        await ready(running)
        customers = await new_customers(running, LOAD.accounts)

        async def cost() -> Cost:
            before = await _read(admin)
            told = await put_through(running, admin, LOAD, customers)
            await asyncio.sleep(SETTLE_SECONDS)
            after = await _read(admin)
            rows = {name: (after[name] - before[name]) / LOAD.jobs for name in after}
            return Cost(told=told, rows=rows)

        await cost()  # plans are made, and the originals of the history
        new = await cost()
        owner = await connect(running.stack.admin_dsn(), command_timeout=COPY_SECONDS)
        try:
            small = await sizes(owner)
            await grow(owner, jobs=history, accounts=history // JOBS_OF_ONE)
            large = await sizes(owner)
        finally:
            await owner.close()
        await cost()  # plans are made anew
        old = await cost()
    return [*_costs(history, new, old), *_disk(history, small, large)]


async def _read(admin: Pool) -> dict[str, int]:
    return {row["name"]: row["rows"] for row in await admin.fetch(READ_SQL)}


def _costs(history: int, new: Cost, old: Cost) -> list[Figure]:
    than = "new"
    before, after = new.told.arrived, old.told.arrived
    total = sum(old.rows.values()), sum(new.rows.values())
    grown = [
        sooner(f"  rows of {name}", "", [(rows, max(new.rows[name], 1.0))], than=than)
        for name, rows in old.rows.items()
        if rows >= FEW_ROWS
    ]
    return [
        sooner(
            f"rows read for a job, {history:,} jobs in the log",
            "",
            [total],
            than=than,
            at_least=RATIO_GOAL,
        ),
        *grown,
        sooner("  submit, p50", "ms", [(after.p50_ms, before.p50_ms)], than=than),
        sooner("  submit, p99", "ms", [(after.p99_ms, before.p99_ms)], than=than),
        sooner("  processor of postgres", "ms/job", [(_cpu(old), _cpu(new))], than=than),
    ]


def _cpu(cost: Cost) -> float:
    return 1000 * cost.told.gauges["postgres"].cpu_seconds / LOAD.jobs


def _disk(history: int, small: dict[str, TableSize], large: dict[str, TableSize]) -> list[Figure]:
    grown = {
        name: (
            (size.rows - small[name].rows) / history,
            (size.indexes - small[name].indexes) / history,
        )
        for name, size in large.items()
    }
    for name, (rows, indexes) in sorted(grown.items(), key=lambda item: -sum(item[1])):
        if rows + indexes >= 1:
            print(f"{name}: {rows:,.0f} bytes a job, {indexes:,.0f} of indexes", file=sys.stderr)
    rows, indexes = (sum(each) for each in zip(*grown.values(), strict=True))
    return [
        absolute("bytes of tables a job", "B", [rows]),
        absolute("bytes of indexes a job", "B", [indexes]),
    ]
