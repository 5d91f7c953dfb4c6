"""What is stored of a batch, and what fits into an answer. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from libs.contracts.training import LogBatch, LogLine, MetricBatch, MetricPoint

MAX_POINTS = 4_000
MAX_LINES = 1_000
"""One answer's limits, for whoever asks for more."""

MAX_ANSWER = 900_000
"""Bytes of points or lines in an answer: NATS carries 1 MiB, and the page around them is small."""

MAX_MESSAGE = 64 * 1024
"""Bytes of points or lines in one message of a stream, unless a single one is longer: some 300
points, sent in one piece to clients that may be slow."""

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
"""A trainer's clock may be anything; outside of these PostgreSQL and Python stop agreeing."""

T = TypeVar("T", MetricPoint, LogLine)
Row = tuple[Any, ...]


def metric_rows(batch: MetricBatch) -> list[Row]:
    """In the order of ``telemetry.metric``'s columns."""
    return [
        (
            batch.job_id,
            point.step,
            storable_text(point.phase),
            batch.epoch,
            storable_time(point.ts),
            point.cycle,
            point.loss,
            point.lr,
            point.throughput,
            point.vram_gb,
            point.grad_norm,
        )
        for point in batch.points
    ]


def log_rows(batch: LogBatch) -> list[Row]:
    """In the order of ``telemetry.log_line``'s columns."""
    return [
        (
            batch.job_id,
            line.seq,
            batch.epoch,
            storable_time(line.ts),
            storable_text(line.stream),
            storable_text(line.text),
        )
        for line in batch.lines
    ]


def metric_key(row: Row) -> Row:
    """Of a row of ``telemetry.metric``, or the beginning of one. A UUID's integer is compared and
    hashed several times as fast as the UUID."""
    return row[0].int, row[1], row[2]


def line_key(row: Row) -> Row:
    """The same of ``telemetry.log_line``."""
    return row[0].int, row[1]


def newest_rows(rows: Iterable[Row], key: Callable[[Row], Row], version: slice) -> dict[Row, Row]:
    """One row of each key, that of the latest attempt, in an order that all writers share: who
    waits for another's row then never has one that the other waits for."""
    newest: dict[Row, Row] = {}
    for row in rows:
        mine = key(row)
        known = newest.setdefault(mine, row)
        if known is not row and known[version] < row[version]:
            newest[mine] = row
    return dict(sorted(newest.items(), key=itemgetter(0)))


def point_of(row: Row) -> MetricPoint:
    _, step, phase, _, ts, cycle, loss, lr, throughput, vram_gb, grad_norm = row
    return MetricPoint(
        ts=ts,
        step=step,
        cycle=cycle,
        phase=phase,
        loss=loss,
        lr=lr,
        throughput=throughput,
        vram_gb=vram_gb,
        grad_norm=grad_norm,
    )


def line_of(row: Row) -> LogLine:
    _, seq, _, ts, stream, text = row
    return LogLine(seq=seq, ts=ts, stream=stream, text=text)


def payloads(job_id: UUID, field: str, items: Iterable[MetricPoint | LogLine]) -> Iterator[bytes]:
    """``{"job_id", field: [...]}``, as often as it takes for each to stay within its limit."""
    head = f'{{"job_id":"{job_id}","{field}":['.encode()
    parts: list[bytes] = []
    size = 0
    for part in map(msgspec.json.encode, items):
        size += len(part)
        if parts and size > MAX_MESSAGE:
            yield head + b",".join(parts) + b"]}"
            parts, size = [], len(part)
        parts.append(part)
    if parts:
        yield head + b",".join(parts) + b"]}"


def storable_text(text: str) -> str:
    """PostgreSQL holds every character but NUL."""
    return text.replace("\0", "")


def storable_time(ts: datetime) -> datetime:
    """UTC, also where the sender left it out, and within what every reader can represent."""
    known = ts if ts.tzinfo else ts.replace(tzinfo=UTC)
    return min(max(known, EARLIEST), LATEST)


def whole_steps(points: Sequence[MetricPoint], limit: int) -> Sequence[MetricPoint]:
    """At most ``limit`` points, ending with a whole step where that is possible.

    The reader goes on behind the last step it has seen; half a step would lose its other half.
    ``points`` are ordered by step and hold one more than the limit when there are more.
    """
    if len(points) <= limit:
        return points
    cut = points[limit].step
    whole = [point for point in points[:limit] if point.step < cut]
    return whole or points[:limit]


def that_fit(items: Iterable[T]) -> list[T]:
    """The first items whose JSON together fits into an answer."""
    kept: list[T] = []
    size = 0
    for item in items:
        size += len(msgspec.json.encode(item)) + 1  # the comma
        if size > MAX_ANSWER:
            break
        kept.append(item)
    return kept
