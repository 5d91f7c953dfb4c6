"""The tracer provider of a process that is watched."""

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from libs.observability.observation import Observation


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def export_spans(service: str, observation: Observation) -> None:
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: f"tuneyard-{service}"}),
        sampler=ParentBased(TraceIdRatioBased(observation.trace_ratio)),
    )
    if observation.otlp_endpoint is not None:
        endpoint = f"{observation.otlp_endpoint.rstrip('/')}/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    if observation.spans_file is not None:
        lines = observation.spans_file.open("a", encoding="utf-8")
        exporter = ConsoleSpanExporter(out=lines, formatter=_line)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
