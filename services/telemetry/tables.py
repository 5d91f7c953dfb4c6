"""Where points and lines are kept: a later attempt replaces what a lost one said, and each row that
is new, or replaced, is told to the account's streams in the same transaction."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from uuid import UUID

from faststream.nats import NatsBroker
from msgspec import Struct

from libs.contracts.telemetry_rpc import MessageKind
from libs.eventlog.connection import Connection, Pool
from services.telemetry import model
from services.telemetry.model import Batch, Shape, each_once, encoded, parts, payloads
from services.telemetry.sequence import Told, add, publish

MAX_OWNERS = 10_000  # jobs whose account is at hand, 200 bytes each; then all are asked for again

OWNERS_SQL = "SELECT id, account_id FROM log.job WHERE id = ANY($1::uuid[])"

# All writers have one order: who waits for another's row then never has one that the other waits
# for.
METRICS_SQL = """
INSERT INTO telemetry.metric AS known
    (job_id, step, phase, epoch, ts, cycle, loss, lr, throughput, vram_gb, grad_norm)
SELECT batch.job_id, step, phase, batch.epoch, ts, cycle, loss, lr, throughput, vram_gb, grad_norm
FROM unnest($1::uuid[], $2::int[], $3::bytea[]) AS batch (job_id, epoch, items),
     json_to_recordset(convert_from(batch.items, 'UTF8')::json) AS point
        (step int, phase text, ts timestamptz, cycle bigint, loss float8, lr float8,
         throughput float8, vram_gb float8, grad_norm float8)
ORDER BY job_id, step, phase
ON CONFLICT (job_id, step, phase) DO UPDATE SET
    epoch = excluded.epoch, ts = excluded.ts, cycle = excluded.cycle, loss = excluded.loss,
    lr = excluded.lr, throughput = excluded.throughput, vram_gb = excluded.vram_gb,
    grad_norm = excluded.grad_norm
    WHERE (known.epoch, known.ts) < (excluded.epoch, excluded.ts)
RETURNING job_id, step, phase
"""

LINES_SQL = """
INSERT INTO telemetry.log_line AS known (job_id, seq, epoch, ts, stream, line)
SELECT batch.job_id, seq, batch.epoch, ts, stream, text
FROM unnest($1::uuid[], $2::int[], $3::bytea[]) AS batch (job_id, epoch, items),
     json_to_recordset(convert_from(batch.items, 'UTF8')::json) AS line
        (seq bigint, ts timestamptz, stream text, text text)
ORDER BY job_id, seq
ON CONFLICT (job_id, seq) DO UPDATE SET
    epoch = excluded.epoch, ts = excluded.ts, stream = excluded.stream, line = excluded.line
    WHERE (known.epoch, known.ts) < (excluded.epoch, excluded.ts)
RETURNING job_id, seq
"""

# The keys only where some are missing ($4 were given): all of them would cost as much to send and
# to read as to store.
WRITTEN_SQL = """
WITH written AS ({insert}), counted AS (SELECT count(*) AS number FROM written)
SELECT counted.number, written.* FROM counted LEFT JOIN written ON counted.number < $4
"""


class Table(Struct, frozen=True, kw_only=True):
    """How items of one kind are written, and told as ``kind`` in ``field``."""

    sql: str
    kind: MessageKind
    field: str
    shape: Shape


METRICS = Table(
    sql=WRITTEN_SQL.format(insert=METRICS_SQL),
    kind="metrics",
    field="points",
    shape=model.POINTS,
)
LINES = Table(
    sql=WRITTEN_SQL.format(insert=LINES_SQL),
    kind="log",
    field="lines",
    shape=model.LINES,
)


class Keeper:
    """Writes rows of one table, and tells of them after the commit."""

    def __init__(self, pool: Pool, broker: NatsBroker, table: Table) -> None:
        self._pool = pool
        self._broker = broker
        self._table = table
        self._owners: dict[UUID, UUID] = {}

    async def keep(self, batches: Sequence[Batch]) -> None:
        """Durable when it returns, and told. Raises what PostgreSQL, or the way to it, said."""
        batches = each_once(self._table.shape, batches)
        async with self._pool.acquire() as connection:
            owners = await self._owners_of(connection, {batch.job_id for batch in batches})
            async with connection.transaction():
                fresh = await self._write(connection, batches)
                placed = await add(connection, list(self._told(fresh, owners)))
        await publish(self._broker, placed)

    async def _write(self, connection: Connection, batches: Sequence[Batch]) -> Sequence[Batch]:
        """What of them was new, or later than what was there."""
        number = sum(len(batch.items) for batch in batches)
        columns = zip(*((one.job_id, one.epoch, one.encoded) for one in batches), strict=True)
        rows = await connection.fetch(self._table.sql, *map(list, columns), number)
        written = rows[0]["number"]
        if written == number:
            return batches
        keys = {tuple(row)[1:] for row in rows} if written else set()
        key = self._table.shape.key
        left = (
            (batch, [item for item in batch.items if (batch.job_id, *key(item)) in keys])
            for batch in batches
        )
        return [encoded(batch.job_id, batch.epoch, items) for batch, items in left if items]

    async def _owners_of(self, connection: Connection, jobs: set[UUID]) -> dict[UUID, UUID]:
        """The account of each job that the log has; who it is never changes."""
        if unknown := jobs - self._owners.keys():
            if len(self._owners) >= MAX_OWNERS:
                self._owners.clear()
                unknown = jobs
            rows = await connection.fetch(OWNERS_SQL, list(unknown))
            self._owners |= {row["id"]: row["account_id"] for row in rows}
        return self._owners

    def _told(self, batches: Iterable[Batch], owners: dict[UUID, UUID]) -> Iterator[Told]:
        """What nobody owns is kept, and told to nobody."""
        table = self._table
        for job_id, mine in groupby(batches, lambda batch: batch.job_id):
            if (account_id := owners.get(job_id)) is None:
                continue
            pieces = (piece for batch in mine for piece in parts(batch))
            for payload in payloads(job_id, table.field, pieces):
                yield Told(account_id=account_id, job_id=job_id, kind=table.kind, payload=payload)
