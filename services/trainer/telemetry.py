"""Metrics and log lines of a running attempt, from its files to JetStream.

Training writes files and never waits for this; when NATS is away the files are the buffer.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from libs.bus.streams import logs_subject, metrics_subject
from libs.contracts.scheduler_rpc import LeaseGranted
from libs.contracts.training import LogBatch, LogLine, MetricBatch, MetricPoint
from libs.observability.trace import unrecorded
from services.trainer.link import Link
from services.trainer.meter import show
from services.trainer.tail import Piece, Tail

LINES_PER_ATTEMPT = 10_000_000
"""A later attempt's lines are numbered after these; far more than a console shows."""

LONGEST_LINE = 4000  # characters: the contract's LongText

logger = structlog.get_logger()

decode_point = msgspec.json.Decoder(MetricPoint).decode


class Telemetry:
    """Follows one run's ``metrics.jsonl``, ``log.txt``, and what its process prints."""

    def __init__(
        self,
        link: Link,
        lease: LeaseGranted,
        *,
        out_dir: Path,
        output: Path,
        now: Callable[[], datetime],
    ) -> None:
        self._link = link
        self._lease = lease
        self._now = now
        self._metrics = Tail(out_dir / "metrics.jsonl")
        self._log = Tail(out_dir / "log.txt")
        self._output = Tail(output)
        self._flushing = asyncio.Lock()
        self._sent: Counter[type[Struct]] = Counter()

    async def flush(self) -> None:
        """Publish every complete line written so far; returns when JetStream holds them."""
        async with self._flushing:
            await self._flush()

    async def _flush(self) -> None:
        job_id, epoch = self._lease.job_id, self._lease.epoch
        while piece := self._metrics.read():
            points = MetricBatch(job_id=job_id, epoch=epoch, points=points_in(piece))
            message_id = f"{job_id}:{epoch}:metrics:{piece.offset}"
            await self._publish(metrics_subject(job_id), points, message_id)
            if points.points:
                show(self._lease.job_type, points.points[-1])
        while piece := self._log.read():
            lines = LogBatch(job_id=job_id, epoch=epoch, lines=lines_in(piece, epoch, self._now()))
            message_id = f"{job_id}:{epoch}:logs:{piece.offset}"
            await self._publish(logs_subject(job_id), lines, message_id)
        while piece := self._output.read():
            for line in piece.lines:
                logger.info("training printed", line=_text(line))

    async def _publish(self, subject: str, batch: Struct, message_id: str) -> None:
        """Several a second, for hours: in the trace's picture are those of each kind whose number
        is a power of two."""
        self._sent[type(batch)] += 1
        with nullcontext() if self._sent[type(batch)].bit_count() == 1 else unrecorded():
            await self._link.publish(subject, batch, message_id)


def points_in(piece: Piece) -> tuple[MetricPoint, ...]:
    """A line that is no point (a loss that is not a number, say) is passed over."""
    points = []
    for line in piece.lines:
        try:
            points.append(decode_point(line))
        except msgspec.MsgspecError as error:
            logger.warning("not a metric point", line=_text(line), error=str(error))
    return tuple(points)


def lines_in(piece: Piece, epoch: int, now: datetime) -> tuple[LogLine, ...]:
    """Numbered from 1 within the attempt, after all lines of the attempts before it."""
    first = (epoch - 1) * LINES_PER_ATTEMPT + piece.before + 1
    return tuple(
        LogLine(seq=first + index, ts=now, stream="stdout", text=_text(line))
        for index, line in enumerate(piece.lines)
    )


def _text(line: bytes) -> str:
    """What PostgreSQL can hold: UTF-8 without NUL, of bounded length."""
    return line.decode(errors="replace").replace("\0", "�")[:LONGEST_LINE]
