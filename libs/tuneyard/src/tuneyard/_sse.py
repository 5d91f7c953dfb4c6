"""Server-sent events, as the WHATWG's HTML standard has them (9.2.6). Pure."""

from codecs import getincrementaldecoder
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """``id``: the last that was said, with this message or before it."""

    id: str | None
    event: str
    data: str


class Parser:
    """Of one connection. ``last_event_id`` is what to send as Last-Event-ID to the next; ``retry``
    in seconds, once the server has said how long to wait before coming back."""

    def __init__(self, last_event_id: str | None = None) -> None:
        self.last_event_id = last_event_id
        self.retry: float | None = None
        self._decode = getincrementaldecoder("utf-8")(errors="replace").decode
        self._at_start = True
        self._line = ""
        self._after_cr = False
        self._id = last_event_id
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that this chunk completes. One that the stream breaks off is dropped."""
        text = self._decode(chunk)
        if self._at_start and text:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:
            # Of a CR LF that came in two chunks, the LF ends no other line.
            self._after_cr = False
            text = text.removeprefix("\n")
        self._after_cr = self._after_cr or text.endswith("\r")
        lines = (self._line + text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
        self._line = lines.pop()
        return [message for line in lines if (message := self._take(line)) is not None]

    def _take(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value) / 1000
        return None

    def _dispatch(self) -> Message | None:
        self.last_event_id = self._id
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return Message(self._id, event, "\n".join(data)) if data else None
