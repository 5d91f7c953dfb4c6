"""What is stored of a batch, and what fits into an answer. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby, pairwise
from operator import attrgetter, itemgetter, lt
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

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

Item = MetricPoint | LogLine
T = TypeVar("T", MetricPoint, LogLine)


class Batch(Struct, frozen=True, kw_only=True):
    """What one attempt of a job said: each key once, in the order in which it is told, and the same
    as a JSON array, from which PostgreSQL takes the rows and clients are sent their message."""

    job_id: UUID
    epoch: int
    items: Sequence[Item]
    encoded: bytes


class Shape(Struct, frozen=True, kw_only=True):
    """Of items of one kind: ``number`` is what ascends in a batch, ``key`` what is stored once,
    ``order`` how they are told. ``key`` and ``order`` begin with the number."""

    number: Callable[[Any], int]
    key: Callable[[Any], tuple[Any, ...]]
    order: Callable[[Any], tuple[Any, ...]]


POINTS = Shape(
    number=attrgetter("step"),
    key=attrgetter("step", "phase"),
    # As pages have them: within a step as it happened, first training, then its evaluation.
    order=attrgetter("step", "ts", "phase"),
)
LINES = Shape(
    number=attrgetter("seq"),
    key=lambda line: (line.seq,),
    order=lambda line: (line.seq,),
)


def metric_batches(batch: MetricBatch) -> list[Batch]:
    """One, or none of nothing."""
    points = [storable_point(point) for point in batch.points]
    return _batches(POINTS, batch.job_id, batch.epoch, points)


def log_batches(batch: LogBatch) -> list[Batch]:
    return _batches(LINES, batch.job_id, batch.epoch, [storable_line(one) for one in batch.lines])


def _batches(shape: Shape, job_id: UUID, epoch: int, items: Sequence[Item]) -> list[Batch]:
    numbers = list(map(shape.number, items))
    if not all(map(lt, numbers, numbers[1:])):
        return _newest(shape, job_id, ((epoch, item) for item in items))
    return [encoded(job_id, epoch, items)] if items else []


def encoded(job_id: UUID, epoch: int, items: Sequence[Item]) -> Batch:
    return Batch(job_id=job_id, epoch=epoch, items=items, encoded=msgspec.json.encode(items))


def each_once(shape: Shape, batches: Iterable[Batch]) -> list[Batch]:
    """The same, of each key only what the latest attempt said, in the order of the jobs. Batches
    that do not overlap, as a trainer sends them, stay as they are."""
    found: list[Batch] = []
    ordered = sorted(batches, key=lambda one: (one.job_id.int, shape.number(one.items[0])))
    for _, group in groupby(ordered, lambda one: one.job_id.int):
        mine = list(group)
        if all(
            shape.number(one.items[-1]) < shape.number(other.items[0])
            for one, other in pairwise(mine)
        ):
            found += mine
        else:
            said = ((one.epoch, item) for one in mine for item in one.items)
            found += _newest(shape, mine[0].job_id, said)
    return found


def _newest(shape: Shape, job_id: UUID, said: Iterable[tuple[int, Item]]) -> list[Batch]:
    newest: dict[tuple[Any, ...], tuple[int, Item]] = {}
    for epoch, item in said:
        known = newest.setdefault(shape.key(item), (epoch, item))
        if (known[0], known[1].ts) < (epoch, item.ts):
            newest[shape.key(item)] = epoch, item
    ordered = sorted(newest.values(), key=lambda one: shape.order(one[1]))
    return [
        encoded(job_id, epoch, [item for _, item in run])
        for epoch, run in groupby(ordered, itemgetter(0))
    ]


def parts(batch: Batch) -> Iterator[bytes]:
    """Its items in JSON, in as few pieces as messages can be made of."""
    if len(batch.encoded) <= MAX_MESSAGE:
        yield batch.encoded[1:-1]
    else:
        yield from map(msgspec.json.encode, batch.items)


def payloads(job_id: UUID, field: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """``{"job_id", field: [...]}``, as often as it takes for each to stay within its limit."""
    head = f'{{"job_id":"{job_id}","{field}":['.encode()
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        if held and size > MAX_MESSAGE:
            yield head + b",".join(held) + b"]}"
            held, size = [], len(piece)
        held.append(piece)
    if held:
        yield head + b",".join(held) + b"]}"


def storable_point(point: MetricPoint) -> MetricPoint:
    phase, ts = storable_text(point.phase), storable_time(point.ts)
    if phase is point.phase and ts is point.ts:
        return point
    return replace(point, phase=phase, ts=ts)


def storable_line(line: LogLine) -> LogLine:
    text, stream, ts = storable_text(line.text), storable_text(line.stream), storable_time(line.ts)
    if text is line.text and stream is line.stream and ts is line.ts:
        return line
    return replace(line, text=text, stream=stream, ts=ts)


def storable_text(text: str) -> str:
    """PostgreSQL holds every character but NUL."""
    return text.replace("\0", "") if "\0" in text else text


def storable_time(ts: datetime) -> datetime:
    """UTC, also where the sender left it out, and within what every reader can represent. Other
    zones may be further away than PostgreSQL reads."""
    if ts.tzinfo is UTC and EARLIEST <= ts <= LATEST:
        return ts
    known = ts if ts.tzinfo else ts.replace(tzinfo=UTC)
    return min(max(known, EARLIEST), LATEST).astimezone(UTC)


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
