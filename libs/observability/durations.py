"""How long requests, questions and messages take: histograms by OpenTelemetry's conventions.

They are measured where spans are, at the seams of a process, and for all requests, whatever part of
the traces is kept.
"""

from time import perf_counter
from typing import Self

from opentelemetry import metrics
from opentelemetry.metrics import Histogram
from opentelemetry.semconv.metrics.http_metrics import HTTP_SERVER_REQUEST_DURATION

from libs.observability.spans import Value

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The buckets' upper bounds: those that the conventions advise, and finer, as most here is."""

_measuring = False


def measure_durations() -> None:
    """To be called once there is somebody to be told."""
    global _measuring
    _measuring = True


def _histogram(name: str, of: str) -> Histogram:
    return metrics.get_meter("tuneyard").create_histogram(
        name,
        unit="s",
        description=f"Duration of {of}.",
        explicit_bucket_boundaries_advisory=SECONDS,
    )


HTTP_SERVER = _histogram(HTTP_SERVER_REQUEST_DURATION, "HTTP requests")
RPC_SERVER = _histogram("rpc.server.duration", "questions that were answered")
RPC_CLIENT = _histogram("rpc.client.duration", "questions that were asked, over all tries")
PROCESS = _histogram("messaging.process.duration", "handling a message")

OUTCOME = "tuneyard.outcome"


class timed:
    """``with timed(RPC_SERVER, {...}) as timing``; what is put into ``attributes`` until it ends
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
