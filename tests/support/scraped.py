"""What a process says of itself: scraped as Prometheus does, and received as a collector does."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.program import free_port

Labels = frozenset[tuple[str, str]]
Series = tuple[str, Labels]
"""A name and its labels, without those that name the process."""

PROCESS = {"service_name", "service_instance_id"}


def series(name: str, **labels: str) -> Series:
    return name, frozenset(labels.items())


async def scrape(address: str) -> dict[Series, float]:
    """Every sample but the buckets of histograms."""
    async with aiohttp.ClientSession() as http, http.get(f"http://{address}/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (sample.name, frozenset((k, v) for k, v in sample.labels.items() if k not in PROCESS)): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket") and sample.name != "target_info"
    }


class Collector:
    """The last that each service has sent: OpenTelemetry's names, and values as Prometheus counts
    them."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.received: dict[str, dict[Series, float]] = {}
        self.units: dict[str, str] = {}

    async def take(self, request: web.Request) -> web.Response:
        export = ExportMetricsServiceRequest.FromString(await request.read())
        for one in export.resource_metrics:
            named = {a.key: a.value.string_value for a in one.resource.attributes}
            metrics = [metric for scope in one.scope_metrics for metric in scope.metrics]
            self.units |= {metric.name: metric.unit for metric in metrics}
            self.received[named["service.name"]] = dict(
                sample for metric in metrics for sample in _samples(metric)
            )
        body = ExportMetricsServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")


def _samples(metric: Metric) -> Iterator[tuple[Series, float]]:
    for point in (*metric.sum.data_points, *metric.gauge.data_points):
        value = point.as_double if point.HasField("as_double") else point.as_int
        yield (metric.name, _labels(point.attributes)), value
    for spread in metric.histogram.data_points:
        yield (f"{metric.name}:count", _labels(spread.attributes)), spread.count
        yield (f"{metric.name}:sum", _labels(spread.attributes)), spread.sum


def _labels(attributes: object) -> Labels:
    pairs: Mapping[str, str] = {
        one.key.replace(".", "_"): str(getattr(one.value, one.value.WhichOneof("value")))
        for one in attributes  # type: ignore[attr-defined]
    }
    return frozenset(pairs.items())


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on loopback that takes OTLP over HTTP; traces go nowhere."""
    port = free_port()
    collector = Collector(f"http://127.0.0.1:{port}")

    async def drop(_: web.Request) -> web.Response:
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/metrics", collector.take)
    app.router.add_post("/v1/traces", drop)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield collector
    finally:
        await runner.cleanup()
