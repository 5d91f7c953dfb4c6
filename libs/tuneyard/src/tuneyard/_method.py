"""A method of a resource, written once for the blocking client and the asynchronous one.

It describes its request (`Call`); which client it is called on decides whether the result comes at
once or is to be awaited, and `with_raw_response` whether headers come along. Type checkers know:
`Jobs[Sync, Plain]` and `Jobs[Async, Raw]` are one class, and `__get__` tells them apart.
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from dataclasses import replace
from functools import cached_property, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_args, get_type_hints, overload

import msgspec

from tuneyard._call import Call, KeyPlace, Options, Route, decoded, exchange
from tuneyard._effects import Emit, Emitting, Flow, Response
from tuneyard._pages import AsyncPages, Pages
from tuneyard._stream import follow
from tuneyard.types import Page

P = ParamSpec("P")
T = TypeVar("T")


class Sync:
    """The result comes at once."""


class Async:
    """The result is to be awaited."""


class Plain:
    """The result is the answer's content."""


class Raw:
    """The result is a `RawResponse`."""


M = TypeVar("M")  # Sync or Async
R = TypeVar("R")  # Plain or Raw


class RawResponse(Generic[T]):
    """An answer with its headers, whose names are in lower case; `parse` gives its content."""

    def __init__(self, response: Response, read: Callable[[Response], T]) -> None:
        self.status = response.status
        self.headers = response.headers
        self.content = response.content
        self._response = response
        self._read = read

    @property
    def request_id(self) -> str | None:
        """What to tell when asking for help."""
        return self.headers.get("x-request-id")

    @property
    def replayed(self) -> bool:
        """An earlier request with the same idempotency key is answered again."""
        return self.headers.get("idempotency-replayed") == "true"

    def parse(self) -> T:
        """Raises ResponseError."""
        return self._read(self._response)

    def __repr__(self) -> str:
        return f"RawResponse(status={self.status}, request_id={self.request_id!r})"


class Resource(Generic[M, R]):
    """A part of the client. ``driver`` runs flows, blocking or not."""

    def __init__(self, options: Options, driver: Any, *, raw: bool = False) -> None:
        self._options = options
        self._driver = driver
        self._raw = raw


class Endpoint(Generic[P, T]):
    """One operation of the platform."""

    def __init__(self, route: Route, describe: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self.route = route
        self.describe = describe
        self.__doc__ = describe.__doc__

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        return self.describe(None, *args, **kwargs)

    def flow(self, options: Options, *args: P.args, **kwargs: P.kwargs) -> Flow[T]:
        """As a part of a larger flow."""
        return self.result(options, self.call(*args, **kwargs))

    def result(self, options: Options, call: Call[T]) -> Flow[T]:
        response = yield from exchange(options, self.route, call)
        return self.reader(call)(response)

    def raw(self, options: Options, call: Call[T]) -> Flow[RawResponse[T]]:
        response = yield from exchange(options, self.route, call)
        return RawResponse(response, self.reader(call))

    def reader(self, call: Call[T]) -> Callable[[Response], T]:
        return call.read or (lambda response: decoded(self._decoder, response))

    @cached_property
    def answer(self) -> Any:
        """The T that ``describe`` is annotated with."""
        return get_args(get_type_hints(self.describe)["return"])[0]

    @cached_property
    def _decoder(self) -> "msgspec.json.Decoder[T]":
        return msgspec.json.Decoder(self.answer)

    @overload
    def __get__(self, one: None, owner: Any) -> "Endpoint[P, T]": ...
    @overload
    def __get__(self, one: Resource[Sync, Plain], owner: Any) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, one: Resource[Async, Plain], owner: Any
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, one: Resource[Sync, Raw], owner: Any) -> Callable[P, RawResponse[T]]: ...
    @overload
    def __get__(
        self, one: Resource[Async, Raw], owner: Any
    ) -> Callable[P, Coroutine[Any, Any, RawResponse[T]]]: ...
    def __get__(self, one: Any, owner: Any) -> Any:
        if one is None:
            return self

        @wraps(self.describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            call = self.describe(one, *args, **kwargs)
            run = self.raw if one._raw else self.result
            return one._driver.run(run(one._options, call))

        return _bound(method)


class Listing(Generic[P, T]):
    """An operation that gives a list, a page at a time."""

    def __init__(
        self, route: Route, describe: Callable[Concatenate[Any, P], Call[Page[T]]]
    ) -> None:
        self.endpoint: Endpoint[P, Page[T]] = Endpoint(route, describe)
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, one: None, owner: Any) -> "Listing[P, T]": ...
    @overload
    def __get__(self, one: Resource[Sync, Plain], owner: Any) -> Callable[P, Pages[T]]: ...
    @overload
    def __get__(self, one: Resource[Async, Plain], owner: Any) -> Callable[P, AsyncPages[T]]: ...
    @overload
    def __get__(
        self, one: Resource[Sync, Raw], owner: Any
    ) -> Callable[P, RawResponse[Page[T]]]: ...
    @overload
    def __get__(
        self, one: Resource[Async, Raw], owner: Any
    ) -> Callable[P, Coroutine[Any, Any, RawResponse[Page[T]]]]: ...
    def __get__(self, one: Any, owner: Any) -> Any:
        if one is None:
            return self

        @wraps(self.endpoint.describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            call = self.endpoint.describe(one, *args, **kwargs)
            if one._raw:
                return one._driver.run(self.endpoint.raw(one._options, call))
            return one._driver.pages(lambda: self.walk(one._options, call))

        return _bound(method)

    def walk(self, options: Options, call: Call[Page[T]]) -> Emitting:
        """Emits page after page."""
        while True:
            page = yield from self.endpoint.result(options, call)
            yield Emit(page)
            following = page.next_cursor
            # A server that names the same place again would be asked for ever.
            if not page.has_more or following in (None, call.query.get("cursor")):
                return
            call = replace(call, query={**call.query, "cursor": following})


class Procedure(Generic[P, T]):
    """Several requests with one result."""

    def __init__(self, make: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, one: None, owner: Any) -> "Procedure[P, T]": ...
    @overload
    def __get__(self, one: Resource[Sync, Plain], owner: Any) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, one: Resource[Async, Plain], owner: Any
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, one: Any, owner: Any) -> Any:
        if one is None:
            return self

        @wraps(self.make)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return one._driver.run(self.make(one, *args, **kwargs))

        return _bound(method)


class Streaming(Generic[P, T]):
    """An operation that goes on saying something, for as long as it is listened to."""

    def __init__(
        self, route: Route, describe: Callable[Concatenate[Any, P], Call[T]], *, to_done: bool
    ) -> None:
        self.route = route
        self.describe = describe
        self.to_done = to_done
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, one: None, owner: Any) -> "Streaming[P, T]": ...
    @overload
    def __get__(
        self, one: Resource[Sync, Plain], owner: Any
    ) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(
        self, one: Resource[Async, Plain], owner: Any
    ) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, one: Any, owner: Any) -> Any:
        if one is None:
            return self

        @wraps(self.describe)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            call = self.describe(one, *args, **kwargs)
            flow = follow(one._options, self.route, call, to_done=self.to_done)
            return one._driver.iterate(flow)

        return _bound(method)


def endpoint(
    method: str, path: str, *, key: KeyPlace | None = None, repeatable: bool = False
) -> Callable[[Callable[Concatenate[Any, P], Call[T]]], Endpoint[P, T]]:
    route = Route(method, path, key, repeatable)
    return lambda describe: Endpoint(route, describe)


def listing(
    method: str, path: str
) -> Callable[[Callable[Concatenate[Any, P], Call[Page[T]]]], Listing[P, T]]:
    return lambda describe: Listing(Route(method, path), describe)


def procedure(make: Callable[Concatenate[Any, P], Flow[T]]) -> Procedure[P, T]:
    return Procedure(make)


def streaming(
    method: str, path: str, *, to_done: bool
) -> Callable[[Callable[Concatenate[Any, P], Call[T]]], Streaming[P, T]]:
    """``to_done``: it ends with the event ``done``."""
    route = Route(method, path)
    return lambda describe: Streaming(route, describe, to_done=to_done)


def _bound(method: Any) -> Any:
    """With a signature that does not name self, for `help` and editors."""
    signature = inspect.signature(method)
    method.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    return method
