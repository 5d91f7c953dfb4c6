"""What an operator may want to see of a process, as its environment says."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

LAST_PORT = 65_535


class Observation(Struct, frozen=True, kw_only=True):
    """Where spans and metrics go; every service decodes it beside its own settings.

    ``otlp_endpoint`` is the base URL of a collector that speaks OTLP over HTTP, such as
    ``http://collector:4318``: spans and metrics are sent there. ``spans_file`` gets one JSON object
    a span and line; where it is a folder, each service has a file of its own in it. A new file is
    readable to its owner alone.
    ``metrics_listen`` is the ``host:port`` that Prometheus scrapes. ``trace_ratio`` of all traces
    are kept: the gateway chooses where a request enters, and every other service goes by that.
    What else can be set (headers, intervals, queue sizes) the SDK reads from its standard
    variables, ``OTEL_EXPORTER_OTLP_HEADERS`` and so on.
    """

    otlp_endpoint: str | None = None
    spans_file: Path | None = None
    metrics_listen: str | None = None
    trace_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        if self.metrics_listen is None:
            return
        host, _, port = self.metrics_listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > LAST_PORT:
            raise ValueError("metrics_listen must be host:port, such as 127.0.0.1:9464")

    @property
    def traces(self) -> bool:
        return self.otlp_endpoint is not None or self.spans_file is not None

    @property
    def metrics(self) -> bool:
        return self.otlp_endpoint is not None or self.metrics_listen is not None
