"""Spans and metrics for whoever watches from outside: OTLP, a file of spans, a Prometheus endpoint.

All of it is off until an operator names an address. Then nothing here is imported but this module,
OpenTelemetry's own no-op providers stay in place, and there is no thread and no listener.
"""

from collections.abc import Mapping

from libs.observability.durations import measure_durations
from libs.observability.observation import Observation
from libs.settings import decode_settings


def observe(service: str, environ: Mapping[str, str]) -> bool:
    """Begin to export this process's spans and metrics, as far as ``environ`` wants it; whether
    anybody wants metrics, so that what costs a look at the database is looked at.

    To be called once, before anything asks for a tracer or a meter. What is waiting is sent when
    the process ends in an orderly way. Raises SettingsError, and OSError where
    ``metrics_listen`` can't be listened on or ``spans_file`` can't be written.
    """
    observation = decode_settings(Observation, environ)
    # Imported here: the SDK and its exporters are 0.2 s of a start, for those alone who want them.
    if observation.traces:
        from libs.observability.exported_spans import export_spans

        export_spans(service, observation)
    if observation.metrics:
        from libs.observability.exported_metrics import export_metrics

        export_metrics(service, observation)
        measure_durations()
    return observation.metrics
