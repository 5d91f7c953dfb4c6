"""The meter provider of a process that is watched."""

import asyncio
import os
import socket
from contextlib import suppress

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from prometheus_client import CollectorRegistry, start_http_server

from libs.observability.farewell import at_the_end
from libs.observability.loop_lag import watch_loop
from libs.observability.observation import Observation


def export_metrics(service: str, observation: Observation) -> None:
    readers: list[MetricReader] = []
    if observation.otlp_endpoint is not None:
        endpoint = f"{observation.otlp_endpoint.rstrip('/')}/v1/metrics"
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint)))
    if observation.metrics_listen is not None:
        # A registry of our own: the common one has numbers of the interpreter's that nobody asks
        # for, and under other names than OTLP has.
        registry = CollectorRegistry()
        readers.append(
            PrometheusMetricReader(
                scope_info_enabled=False, resource_attribute_filter=_named, registry=registry
            )
        )
        host, _, port = observation.metrics_listen.rpartition(":")
        start_http_server(int(port), addr=host, registry=registry)
    provider = MeterProvider(
        metric_readers=readers,
        resource=Resource.create(
            {
                SERVICE_NAME: f"tuneyard-{service}",
                # Replicas report the same names: without it one would hide the other.
                SERVICE_INSTANCE_ID: f"{socket.gethostname()}-{os.getpid()}",
            }
        ),
        shutdown_on_exit=False,
    )
    metrics.set_meter_provider(provider)
    at_the_end(provider.shutdown)
    with suppress(RuntimeError):  # a tool without a loop has none to be late
        watch_loop(asyncio.get_running_loop())


def _named(attribute: str) -> bool:
    """Labels of each series, as the collector makes them of OTLP: queries are the same for both."""
    return attribute in (SERVICE_NAME, SERVICE_INSTANCE_ID)
