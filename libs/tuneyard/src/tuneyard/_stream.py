"""Follows a stream of events, and goes on where it broke off."""

from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from tuneyard._call import Call, Options, Route, refusal, request_of
from tuneyard._effects import Close, Emit, Emitting, Flow, Open, Opened, Read, Request, Sleep
from tuneyard._retry import LONGEST_RETRY_AFTER, WORTH_REPEATING, backoff
from tuneyard._sse import Message, Parser
from tuneyard.errors import APIConnectionError, APIError, ResponseError
from tuneyard.types.jobs import NewLines, NewPoints, Notice
from tuneyard.types.streaming import DoneEvent, LogEvent, MetricsEvent, StateEvent, StreamEvent

# Seconds without a byte, of which there is one every 15: two are lost, so the connection is.
SILENCE = 45.0
# Times in a row without any news: with pauses of up to 8 s about a minute, longer than a restart.
PATIENCE = 10
# Seconds after which a connection has worked, though nothing happened to be said.
SETTLED = 10.0
NOTHING_LEFT = 204  # how a server tells an EventSource not to come back

T = TypeVar("T")

_notice = msgspec.json.Decoder(Notice)
_points = msgspec.json.Decoder(NewPoints)
_lines = msgspec.json.Decoder(NewLines)


def follow(options: Options, route: Route, call: Call[Any], *, to_done: bool) -> Emitting:
    """Emits every event once and in order. ``to_done``: until the job has ended; else for ever.

    Raises APIError for a refusal, and what ended the last connection once `PATIENCE` is over.
    """
    request, seams = request_of(options, route, call), options.seams
    last, failures = call.last_event_id, 0
    while True:
        parser, begin = Parser(last), seams.monotonic()
        failed: APIConnectionError | APIError
        try:
            opened: Opened = yield Open(_behind(request, last))
            if opened.status == NOTHING_LEFT:
                return
            if opened.status != 200:
                raise (yield from _refusal(options, opened))
            while chunk := (yield Read(opened)):
                for message in parser.feed(chunk):
                    event, failures = event_of(message), 0
                    if event is not None:
                        yield Emit(event)
                    if to_done and isinstance(event, DoneEvent):
                        yield Close(opened)
                        return
            yield Close(opened)
            failed = APIConnectionError("the stream ended, though there is more to come", sent=True)
        except (APIConnectionError, APIError) as error:
            failed = error
        last = parser.last_event_id
        if seams.monotonic() - begin >= SETTLED:
            failures = 0
        failures += 1
        pause = _pause(failed, failures, parser.retry, backoff(failures, seams.random))
        if pause is None:
            raise failed
        yield Sleep(pause)


def _behind(request: Request, last: str | None) -> Request:
    """``identity``: what is compressed may wait in a buffer for more."""
    headers = request.headers | {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
    if last is not None:
        headers["Last-Event-ID"] = last
    return replace(request, headers=headers, timeout=SILENCE)


def _refusal(options: Options, opened: Opened) -> Flow[APIError]:
    content = b""
    while chunk := (yield Read(opened)):
        content += chunk
    yield Close(opened)
    return refusal(options, opened.status, opened.headers, content)


def _pause(
    failed: APIConnectionError | APIError, failures: int, retry: float | None, usual: float
) -> float | None:
    """Seconds; None: give up."""
    if failures > PATIENCE:
        return None
    if isinstance(failed, APIError):
        if failed.status not in WORTH_REPEATING:
            return None
        if failed.retry_after is not None:
            return failed.retry_after if failed.retry_after <= LONGEST_RETRY_AFTER else None
    return usual if retry is None else max(usual, retry)


def event_of(message: Message) -> StreamEvent | None:
    """None for what is newer than this library. Raises ResponseError."""
    last = message.id or ""
    match message.event:
        case "state":
            return StateEvent(id=last, data=_decoded(_notice, message))
        case "metrics":
            return MetricsEvent(id=last, data=_decoded(_points, message))
        case "log":
            return LogEvent(id=last, data=_decoded(_lines, message))
        case "done":
            return DoneEvent(id=last, data=_decoded(_notice, message))
        case _:
            return None


def _decoded(decoder: msgspec.json.Decoder[T], message: Message) -> T:
    try:
        return decoder.decode(message.data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ResponseError(
            f"The stream says a {message.event!r} that can't be read: {error}"
        ) from error
