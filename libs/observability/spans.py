"""Spans: what a process did within a trace, from when to when, as the child of what.

Only where an operator wants them. Nothing but a request from outside begins a recorded trace; all
else is recorded as a part of one, so that work which belongs to no request leaves no spans. The
sampling decision is made once, where the request enters, and travels in the traceparent's flag.

Attributes are names, ids, counts and sizes of our own: never a text that a client sent, a key, a
URL, the parameters of a statement, or an exception's message, which may hold any of them.
"""

import asyncio
import traceback
from collections.abc import Callable, Mapping
from contextvars import Token
from random import random
from time import time_ns
from typing import NamedTuple, Self

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.trace import SpanKind

from libs.observability.trace import Trace, current, new_span_id, unsampled

Value = str | bool | int | float
Attributes = Mapping[str, Value]

OWN = "tuneyard."
"""What no semantic convention has a name for begins with it."""


class Moment(NamedTuple):
    """Something that happened within a span. ``at`` is in ns since 1970."""

    name: str
    at: int
    attributes: Attributes


class Recorder(NamedTuple):
    """Who gets the spans that have ended, and how many of the traces that begin here it wants."""

    ended: Callable[["span"], None]
    ratio: float


_recorder: Recorder | None = None


def record(recorder: Recorder | None) -> None:
    """From now on spans are recorded; with None they are not."""
    global _recorder
    _recorder = recorder


def recording() -> bool:
    """Whether the running code's trace is recorded in this process."""
    trace = current.get()
    return _recorder is not None and trace is not None and trace.sampled and not trace.made_up


class span:
    """``with span("fetch inputs") as fetching: ...``; almost free where nobody records.

    ``enters``: it is a request from outside, which may begin a trace. Of such a one's traceparent
    the ids are continued and a refusal to be recorded is respected; but a wish to be recorded
    counts no more than nobody's, or clients could make the operator pay for it. ``expected`` are
    exceptions that say how it went, not that it failed.
    """

    __slots__ = (
        *("_attributes", "_enters", "_expected", "_recorder", "_token"),
        *("ended_at", "failure", "kind", "moments", "name", "parent", "parent_is_remote"),
        *("started_at", "traceparent"),
    )
    parent: str | None
    parent_is_remote: bool
    traceparent: str
    started_at: int
    ended_at: int
    failure: str | None
    moments: list[Moment]

    def __init__(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        *,
        enters: bool = False,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        self.name = name
        self.kind = kind
        self._attributes = attributes
        self._enters = enters
        self._expected = expected
        self._recorder: Recorder | None = None
        self._token: Token[Trace | None] | None = None

    def __enter__(self) -> Self:
        if _recorder is None:
            return self
        trace = current.get()
        if trace is None or not trace.sampled or (trace.made_up and not self._enters):
            return self
        if self._enters and _recorder.ratio < 1 and random() >= _recorder.ratio:
            # The decision for all that follows, here and in every other service.
            self._token = current.set(Trace(unsampled(trace.traceparent), trace.bound))
        else:
            self._begin(trace, _recorder)
            self._token = current.set(Trace(self.traceparent, trace.bound, span=self))
        return self

    def _begin(self, trace: Trace, recorder: Recorder) -> None:
        self._recorder = recorder
        self.parent = None if trace.made_up else trace.traceparent
        self.parent_is_remote = trace.span is None
        self.traceparent = f"{trace.traceparent[:36]}{new_span_id()}-01"
        bound = {f"{OWN}{name}": value for name, value in trace.bound.items()}
        self._attributes = {**bound, **(self._attributes or {})}
        self.moments = []
        self.failure = None
        self.started_at = time_ns()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._token is None:
            return
        current.reset(self._token)
        if self._recorder is None:
            return
        if isinstance(error, self._expected):
            self.set(outcome=type(error).__qualname__)
        elif error is not None and not isinstance(error, asyncio.CancelledError):
            self.fail(error)
        self.end()

    def end(self, *_: object) -> None:
        """For one that was `begun`, also as a callback; a block ends by itself."""
        if self._recorder is not None:
            self.ended_at = time_ns()
            self._recorder.ended(self)

    @property
    def attributes(self) -> Attributes:
        return self._attributes or {}

    def set(self, **own: Value) -> None:
        """Attributes of our own."""
        if self._recorder is not None:
            self.describe({f"{OWN}{name}": value for name, value in own.items()})

    def describe(self, attributes: Attributes) -> None:
        """Attributes by their full names."""
        if self._recorder is not None:
            self._attributes = {**self.attributes, **attributes}

    def happened(self, name: str, **own: Value) -> None:
        if self._recorder is not None:
            attributes = {f"{OWN}{key}": value for key, value in own.items()}
            self.moments.append(Moment(name, time_ns(), attributes))

    def fail(self, error: BaseException | str) -> None:
        """The span failed, and what it is told first stands. Of an exception are kept its kind and
        where it was raised."""
        if self._recorder is None or self.failure is not None:
            return
        if isinstance(error, str):
            self.failure = error
        else:
            self.failure = type(error).__qualname__
            frames = "".join(traceback.format_tb(error.__traceback__))
            where = {EXCEPTION_TYPE: self.failure, EXCEPTION_STACKTRACE: frames}
            self.moments.append(Moment("exception", time_ns(), where))
        self.describe({ERROR_TYPE: self.failure})


def begun(name: str, kind: SpanKind, attributes: Attributes, traceparent: str | None) -> span:
    """A span of that trace that is ended by its `end`: for what goes on beside other things."""
    one = span(name, kind, attributes)
    if _recorder is not None and traceparent is not None:
        trace = Trace(traceparent, {})
        if trace.sampled:
            one._begin(trace, _recorder)
    return one


_NONE = span("none")


def current_span() -> span:
    """The span that the running code is in; one that takes anything and keeps nothing, where none
    is recorded."""
    trace = current.get()
    return trace.span if trace is not None and isinstance(trace.span, span) else _NONE
