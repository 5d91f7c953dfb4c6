"""Where points and lines are kept: a later attempt replaces what a lost one said, and each row that
is new, or replaced, is told to the account's streams in the same transaction."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from uuid import UUID

from faststream.nats import NatsBroker
from msgspec import Struct

from libs.contracts.telemetry_rpc import MessageKind
from libs.contracts.training import LogLine, MetricPoint
from libs.eventlog.connection import Connection, Pool
from services.telemetry.model import (
    Row,
    line_key,
    line_of,
    metric_key,
    newest_rows,
    payloads,
    point_of,
)
from services.telemetry.sequence import Told, add, publish

MAX_OWNERS = 10_000  # jobs whose account is at hand, 200 bytes each; then all are asked for again

OWNERS_SQL = "SELECT id, account_id FROM log.job WHERE id = ANY($1::uuid[])"

METRICS_SQL = """
INSERT INTO telemetry.metric AS known
    (job_id, step, phase, epoch, ts, cycle, loss, lr, throughput, vram_gb, grad_norm)
SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::int[], $5::timestamptz[], $6::bigint[],
                     $7::float8[], $8::float8[], $9::float8[], $10::float8[], $11::float8[])
ON CONFLICT (job_id, step, phase) DO UPDATE SET
    epoch = excluded.epoch, ts = excluded.ts, cycle = excluded.cycle, loss = excluded.loss,
    lr = excluded.lr, throughput = excluded.throughput, vram_gb = excluded.vram_gb,
    grad_norm = excluded.grad_norm
    WHERE (known.epoch, known.ts) < (excluded.epoch, excluded.ts)
RETURNING job_id, step, phase
"""

LINES_SQL = """
INSERT INTO telemetry.log_line AS known (job_id, seq, epoch, ts, stream, line)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::timestamptz[], $5::text[], $6::text[])
ON CONFLICT (job_id, seq) DO UPDATE SET
    epoch = excluded.epoch, ts = excluded.ts, stream = excluded.stream, line = excluded.line
    WHERE (known.epoch, known.ts) < (excluded.epoch, excluded.ts)
RETURNING job_id, seq
"""


class Table(Struct, frozen=True, kw_only=True):
    """How rows of one kind are written (``sql`` returns the keys of those that were) and told.
    ``key`` and ``version`` are where a row has them, ``item_of`` makes of it what is told in
    ``field``, in the order of ``order``."""

    sql: str
    kind: MessageKind
    field: str
    key: Callable[[Row], Row]
    version: slice
    order: Callable[[Row], Row]
    item_of: Callable[[Row], MetricPoint | LogLine]


METRICS = Table(
    sql=METRICS_SQL,
    kind="metrics",
    field="points",
    key=metric_key,
    version=slice(3, 5),
    # As pages have them: within a step as it happened, first training, then its evaluation.
    order=lambda row: (row[0].int, row[1], row[4], row[2]),
    item_of=point_of,
)
LINES = Table(
    sql=LINES_SQL,
    kind="log",
    field="lines",
    key=line_key,
    version=slice(2, 4),
    order=line_key,
    item_of=line_of,
)


class Keeper:
    """Writes rows of one table, and tells of them after the commit."""

    def __init__(self, pool: Pool, broker: NatsBroker, table: Table) -> None:
        self._pool = pool
        self._broker = broker
        self._table = table
        self._owners: dict[UUID, UUID] = {}

    async def keep(self, rows: Sequence[Row]) -> None:
        """Durable when it returns, and told. Raises what PostgreSQL, or the way to it, said."""
        newest = newest_rows(rows, self._table.key, self._table.version)
        async with self._pool.acquire() as connection:
            owners = await self._owners_of(connection, _jobs_of(newest.values()))
            async with connection.transaction():
                columns = map(list, zip(*newest.values(), strict=True))
                written = await connection.fetch(self._table.sql, *columns)
                fresh: Iterable[Row] = newest.values()
                if len(written) < len(newest):
                    fresh = [newest[self._table.key(tuple(row))] for row in written]
                told = list(self._told(fresh, owners))
                placed = await add(connection, told)
        await publish(self._broker, placed)

    async def _owners_of(self, connection: Connection, jobs: set[UUID]) -> dict[UUID, UUID]:
        """The account of each job that the log has; who it is never changes."""
        if unknown := jobs - self._owners.keys():
            if len(self._owners) >= MAX_OWNERS:
                self._owners.clear()
                unknown = jobs
            rows = await connection.fetch(OWNERS_SQL, list(unknown))
            self._owners |= {row["id"]: row["account_id"] for row in rows}
        return self._owners

    def _told(self, rows: Iterable[Row], owners: dict[UUID, UUID]) -> Iterator[Told]:
        """What nobody owns is kept, and told to nobody."""
        table = self._table
        for number, mine in groupby(sorted(rows, key=table.order), lambda row: row[0].int):
            job_id = UUID(int=number)
            if (account_id := owners.get(job_id)) is None:
                continue
            for payload in payloads(job_id, table.field, map(table.item_of, mine)):
                yield Told(account_id=account_id, job_id=job_id, kind=table.kind, payload=payload)


def _jobs_of(rows: Iterable[Row]) -> set[UUID]:
    return set({row[0].int: row[0] for row in rows}.values())
