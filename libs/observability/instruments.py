"""How a metric is declared: its name, unit, meaning and attributes, once, in ``metrics.py``.

Instruments are OpenTelemetry's, made when they are declared. Until an operator wants metrics there
is no provider, and to count is a call that does nothing. An attribute's values are few and known:
never an account, a job or a path, since every combination is a series that is kept for weeks.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from opentelemetry.metrics import (
    CallbackOptions,
    Counter,
    Histogram,
    Observation,
    UpDownCounter,
    get_meter,
)

Kind = Literal["counter", "gauge", "histogram"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""From a statement to the longest wait of a request; these are Prometheus' own."""
WAITS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600, 14_400, 86_400)
"""From an idle trainer to a day in the queue."""
DELIVERY = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1_800, 7_200, 43_200, 86_400)
"""From one that is accepted at once to the last of a day's attempts."""
SEAMS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""For requests, questions and messages: those that the conventions advise, and finer, as most here
is."""
APPENDS = (1, 2, 4, 8, 16, 32, 64)

PROMETHEUS_UNITS = {"s": "seconds", "By": "bytes", "{token}/s": "per_second"}
"""What Prometheus appends to a name for its unit; an annotation such as ``{job}`` appends none."""


class Metric(Struct, frozen=True, kw_only=True):
    """``unit`` is UCUM's. ``attributes`` are all that a series may have, as
    Prometheus writes them."""

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()

    @property
    def prometheus(self) -> tuple[str, ...]:
        """The names under which Prometheus has it, the first without a histogram's endings."""
        unit = PROMETHEUS_UNITS.get(self.unit)
        base = "_".join((*self.name.split("."), *([unit] if unit else [])))
        match self.kind:
            case "counter":
                return (f"{base}_total",)
            case "gauge":
                return (base,)
            case "histogram":
                return (base, f"{base}_bucket", f"{base}_count", f"{base}_sum")


METRICS: dict[str, Metric] = {}
"""Every metric that was declared, by its name."""

meter = get_meter("tuneyard")


def counter(name: str, unit: str, description: str, *attributes: str) -> Counter:
    """What has happened, counted."""
    _declare(name, "counter", unit, description, attributes)
    return meter.create_counter(name, unit, description)


def histogram(
    name: str, unit: str, description: str, *attributes: str, buckets: Sequence[float] = SECONDS
) -> Histogram:
    """How long something took, or how large it was."""
    _declare(name, "histogram", unit, description, attributes)
    return meter.create_histogram(
        name, unit, description, explicit_bucket_boundaries_advisory=list(buckets)
    )


class Gauge:
    """What was last seen, as every collection shows it. A collection runs in a thread of its own,
    and may neither wait nor touch the event loop, so it reads what somebody has looked up."""

    def __init__(self, attributes: tuple[str, ...]) -> None:
        self._attributes = attributes
        self._seen: Sequence[Observation] = ()

    def show(self, *seen: tuple[float, *tuple[str, ...]]) -> None:
        """From now on this: each a value and its attributes, in the order of their declaration.
        What is not among it any more is not shown; with nothing, nothing is known."""
        self._seen = [
            Observation(value, dict(zip(self._attributes, named, strict=True)))
            for value, *named in seen
        ]

    def observe(self, _: CallbackOptions) -> Iterator[Observation]:
        yield from self._seen


def gauge(name: str, unit: str, description: str, *attributes: str) -> Gauge:
    """What there is at the moment."""
    _declare(name, "gauge", unit, description, attributes)
    shown = Gauge(attributes)
    meter.create_observable_gauge(name, [shown.observe], unit, description)
    return shown


def level(name: str, unit: str, description: str, *attributes: str) -> UpDownCounter:
    """What there is at the moment, in this process, as it comes and goes."""
    _declare(name, "gauge", unit, description, attributes)
    return meter.create_up_down_counter(name, unit, description)


def total(name: str, unit: str, description: str, *attributes: str) -> Gauge:
    """What somebody else counts: a counter that is read from where it is kept."""
    _declare(name, "counter", unit, description, attributes)
    shown = Gauge(attributes)
    meter.create_observable_counter(name, [shown.observe], unit, description)
    return shown


def declared() -> Mapping[str, Metric]:
    """By every name under which Prometheus has one of their series."""
    return {series: metric for metric in METRICS.values() for series in metric.prometheus}


def _declare(
    name: str, kind: Kind, unit: str, description: str, attributes: tuple[str, ...]
) -> None:
    assert name not in METRICS, name
    METRICS[name] = Metric(
        name=name, kind=kind, unit=unit, description=description, attributes=attributes
    )
