"""What a stream says, and what a webhook brings."""

from datetime import datetime
from typing import Any, ClassVar

from msgspec import Struct

from tuneyard.types.jobs import Job, NewLines, NewPoints, Notice


class StateEvent(Struct, frozen=True, kw_only=True):
    """A job's status has changed. ``id`` can be passed as ``last_event_id``, here and below."""

    event: ClassVar[str] = "state"
    id: str
    data: Notice


class MetricsEvent(Struct, frozen=True, kw_only=True):
    """A job has measured."""

    event: ClassVar[str] = "metrics"
    id: str
    data: NewPoints


class LogEvent(Struct, frozen=True, kw_only=True):
    """A job has written."""

    event: ClassVar[str] = "log"
    id: str
    data: NewLines


class DoneEvent(Struct, frozen=True, kw_only=True):
    """A job has ended; nothing more comes of it."""

    event: ClassVar[str] = "done"
    id: str
    data: Notice


StreamEvent = StateEvent | MetricsEvent | LogEvent | DoneEvent


class WebhookEvent(Struct, frozen=True, kw_only=True):
    """A webhook that is really the platform's. ``id`` is the same for every attempt to deliver it,
    so it tells whether this one came before. ``job`` is the job right after what happened; None for
    a ``ping``, and for types that are newer than this library: ``data`` is all that came."""

    id: str
    type: str
    timestamp: datetime
    job: Job | None
    data: dict[str, Any]
