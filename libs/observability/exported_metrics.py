"""The meter provider of a process that is watched."""

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from prometheus_client import start_http_server

from libs.observability.observation import Observation


def export_metrics(service: str, observation: Observation) -> None:
    readers: list[MetricReader] = []
    if observation.otlp_endpoint is not None:
        endpoint = f"{observation.otlp_endpoint.rstrip('/')}/v1/metrics"
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint)))
    if observation.metrics_listen is not None:
        readers.append(PrometheusMetricReader(scope_info_enabled=False))
        host, _, port = observation.metrics_listen.rpartition(":")
        start_http_server(int(port), addr=host)
    metrics.set_meter_provider(
        MeterProvider(
            metric_readers=readers,
            resource=Resource.create({SERVICE_NAME: f"tuneyard-{service}"}),
        )
    )
