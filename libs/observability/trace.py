"""One trace from the HTTP request to the trainer's lines, as W3C trace context.

The current traceparent lives in a context variable; it travels in HTTP and NATS headers and is
stored with every event, so a handler that runs hours later still belongs to its request.
"""

import re
from contextvars import ContextVar
from random import getrandbits
from typing import NamedTuple

from structlog.typing import EventDict, WrappedLogger

_VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_UNSAMPLED = frozenset("02468ace")  # the last bit of the flags is not set


class Trace(NamedTuple):
    """Where the running code stands. ``made_up``: there was no trace, so the span id is nobody's.
    ``span`` is the one of `libs.observability.spans` that is being recorded, and its own."""

    traceparent: str
    bound: dict[str, str]
    made_up: bool = False
    span: object | None = None

    @property
    def sampled(self) -> bool:
        return self.traceparent[-1] not in _UNSAMPLED


current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def new_span_id() -> str:
    return f"{getrandbits(64) or 1:016x}"


def new_traceparent() -> str:
    """A fresh, sampled W3C traceparent (https://www.w3.org/TR/trace-context/)."""
    return f"00-{getrandbits(128) or 1:032x}-{new_span_id()}-01"


def current_traceparent() -> str | None:
    trace = current.get()
    return trace.traceparent if trace else None


def traceparent_within(traceparent: str | None) -> str | None:
    """What belongs on something new of that trace: the span that makes it, if it is one of it."""
    trace = current.get()
    if trace is None or traceparent is None or not _within(trace, traceparent):
        return traceparent
    return trace.traceparent


def _within(trace: Trace, traceparent: str) -> bool:
    return trace.span is not None and trace.traceparent[3:35] == traceparent[3:35]


def trace_id(traceparent: str) -> str:
    return traceparent[3:35]


def span_id(traceparent: str) -> str:
    return traceparent[36:52]


def unsampled(traceparent: str) -> str:
    return f"{traceparent[:53]}00"


class continued:
    """Run in the given trace, or in a new one when there is none or it is malformed.

    Within a span of that very trace it stays within the span. ``context`` stands on every log line
    inside. Gives the traceparent in force. A class, because it stands around every request, and a
    generator would cost a third of the gateway's own time.
    """

    __slots__ = ("_token", "_trace")

    def __init__(self, traceparent: str | None, **context: str) -> None:
        if traceparent is None or not _VALID.fullmatch(traceparent):
            self._trace = Trace(new_traceparent(), context, made_up=True)
            return
        trace = current.get()
        if trace is not None and _within(trace, traceparent):
            self._trace = trace._replace(bound=trace.bound | context)
        else:
            self._trace = Trace(traceparent, context)

    def __enter__(self) -> str:
        self._token = current.set(self._trace)
        return self._trace.traceparent

    def __exit__(self, *exc: object) -> None:
        current.reset(self._token)


class unrecorded:
    """What happens inside belongs to the trace, as its lines say, but is no part of its picture:
    nobody records a span for it, here or where it is sent to. For what is done every second."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        trace = current.get()
        if trace is not None:
            trace = Trace(unsampled(trace.traceparent), trace.bound)
        self._token = current.set(trace)

    def __exit__(self, *exc: object) -> None:
        current.reset(self._token)


def add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor: the trace id and what is bound to the trace, on every line; the span's
    id where one is recorded."""
    trace = current.get()
    if trace is None:
        return event
    ids = {"trace_id": trace_id(trace.traceparent)}
    if trace.span is not None:
        ids["span_id"] = span_id(trace.traceparent)
    return {**ids, **trace.bound, **event}
