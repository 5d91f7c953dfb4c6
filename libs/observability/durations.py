"""How long requests, questions and messages take: histograms by OpenTelemetry's conventions.

They are declared in `libs.observability.metrics` with all others, and measured where spans are, at
the seams of a process, for all requests, whatever part of the traces is kept.
"""

from time import perf_counter
from typing import Self

from opentelemetry.metrics import Histogram

from libs.observability.spans import Value

_measuring = False


def measure_durations() -> None:
    """To be called once there is somebody to be told."""
    global _measuring
    _measuring = True


OUTCOME = "tuneyard.outcome"


class timed:
    """``with timed(ANSWERS, {...}) as timing``; what is put into ``attributes`` until it ends
    goes with the measurement. Free of cost where nobody measures."""

    __slots__ = ("_began", "_histogram", "attributes")

    def __init__(self, histogram: Histogram, attributes: dict[str, Value]) -> None:
        self._histogram = histogram
        self.attributes = attributes

    def __enter__(self) -> Self:
        self._began = perf_counter() if _measuring else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._began is not None:
            self._histogram.record(perf_counter() - self._began, self.attributes)
