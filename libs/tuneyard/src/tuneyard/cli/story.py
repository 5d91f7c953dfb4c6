"""A job as its stream has told it so far. Pure."""

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import islice

from msgspec import Struct, field

from tuneyard.types import (
    DoneEvent,
    Job,
    LogEvent,
    LogLine,
    MetricPoint,
    MetricsEvent,
    StateEvent,
    StreamEvent,
)

KEPT_LINES = 50  # more than a screen shows
SMOOTHED = 20  # points whose throughput is averaged: one alone jumps
EVALUATION = "eval"


class Story(Struct, kw_only=True):
    """``points`` by phase and step: what is said again, after a job was taken up anew, replaces
    what was said before."""

    job: Job | None = None
    points: dict[tuple[str, int], MetricPoint] = field(default_factory=dict)
    lines: deque[LogLine] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    latest: MetricPoint | None = None

    def take(self, event: StreamEvent) -> None:
        match event:
            case StateEvent() | DoneEvent():
                self.job = event.data.data
            case MetricsEvent():
                for point in event.data.points:
                    self.points[point.phase, point.step] = point
                    self.latest = point
            case LogEvent():
                self.lines.extend(event.data.lines)

    def losses(self, *, evaluated: bool) -> list[tuple[int, float]]:
        """Of training, or on what is held out, by step."""
        found = [
            (step, point.loss)
            for (phase, step), point in self.points.items()
            if (phase == EVALUATION) == evaluated
        ]
        return sorted(found)

    def step(self) -> int:
        return self.latest.step if self.latest else 0

    def remaining(self, now: datetime) -> timedelta | None:
        """Until the last step, by the tokens that are left and how fast the last went; None while
        nobody can know."""
        job, latest = self.job, self.latest
        if job is None or latest is None or job.status != "running" or not job.steps_total:
            return None
        last = list(islice(reversed(self.points.values()), SMOOTHED))
        speeds = [point.throughput for point in last if point.throughput > 0]
        if not speeds:
            return None
        left = job.tokens_planned * max(0.0, 1 - latest.step / job.steps_total)
        seconds = left / (sum(speeds) / len(speeds))
        return max(timedelta(), timedelta(seconds=seconds) - (now - latest.ts))


def thinned(points: Sequence[tuple[int, float]], most: int) -> list[tuple[float, float]]:
    """As many points, at most: neighbours become their mean, which is as fine as a screen is."""
    size = -(-len(points) // most) if points else 1
    parts = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return [
        (sum(step for step, _ in part) / len(part), sum(loss for _, loss in part) / len(part))
        for part in parts
    ]
