"""What a flow asks of the outside world. Pure.

A flow is a generator: it yields one of these, is sent what came of it, or has thrown into it what
went wrong, and returns its result. It knows nothing of sockets, threads and event loops, so the
blocking client and the asynchronous one run the very same flows, and a test can play the world.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tuneyard._form import Form

T = TypeVar("T")

Flow = Generator[Any, Any, T]
"""Yields effects, returns a T."""

Emitting = Generator[Any, Any, None]
"""Yields effects, and `Emit` for each of its results."""


@dataclass(frozen=True)
class Request:
    """``timeout`` in seconds, for each wait on the network; None: for ever."""

    method: str
    url: str
    headers: dict[str, str]
    body: "bytes | Form | None" = None
    timeout: float | None = None


@dataclass(frozen=True)
class Response:
    """Names of ``headers`` are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes


@dataclass(frozen=True)
class Opened:
    """A response of which the body is still to be read, with `Read`."""

    status: int
    headers: dict[str, str]
    handle: Any


@dataclass(frozen=True)
class Send:
    """Answered with a `Response`. Throws APIConnectionError, also for half a body."""

    request: Request


@dataclass(frozen=True)
class Open:
    """Answered with an `Opened`. Throws APIConnectionError."""

    request: Request


@dataclass(frozen=True)
class Read:
    """Answered with bytes; none at the end. Throws APIConnectionError."""

    opened: Opened


@dataclass(frozen=True)
class Close:
    opened: Opened


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Do:
    """Work that blocks, on files. Answered with what it returns."""

    work: Callable[[], Any]


@dataclass(frozen=True)
class Together:
    """Flows, ``at_once`` of them at a time. Answered with the list of what they return; when one
    throws, that is thrown once the others have stopped."""

    flows: Sequence[Flow[Any]]
    at_once: int


@dataclass(frozen=True)
class Emit:
    """A result, for the caller."""

    item: Any
