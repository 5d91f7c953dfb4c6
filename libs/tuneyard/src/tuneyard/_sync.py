"""Runs flows on a blocking httpx client."""

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import Any, TypeVar

import httpx

from tuneyard._effects import (
    Close,
    Do,
    Emit,
    Emitting,
    Flow,
    Open,
    Opened,
    Read,
    Request,
    Response,
    Send,
    Sleep,
    Together,
)
from tuneyard._form import Form
from tuneyard._http import LIMITS, failure_of, headers_of, timeout_of
from tuneyard._pages import Pages
from tuneyard.types import Page

T = TypeVar("T")


class _Stopped(Exception):
    """Another of the flows that ran together has failed."""


class _Body:
    """An open response; `read` continues where it was."""

    def __init__(self, response: httpx.Response, request: Request) -> None:
        self.response, self.request = response, request
        self.read = response.iter_raw()


def new_client() -> httpx.Client:
    return httpx.Client(limits=LIMITS)


class Driver:
    def __init__(self, http: httpx.Client, sleep: Callable[[float], None] | None) -> None:
        self.http = http
        self._sleep = sleep or time.sleep

    def pages(self, walk: Callable[[], Emitting]) -> Pages[Any]:
        def pages() -> Iterator[Page[Any]]:
            return self.iterate(walk())

        return Pages(pages)

    def run(self, flow: Flow[T], stop: Event | None = None) -> T:
        steps = self._steps(flow, stop)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result

    def iterate(self, flow: Emitting) -> Iterator[Any]:
        return self._steps(flow, None)

    def _steps(self, flow: Flow[T], stop: Event | None) -> Generator[Any, None, T]:
        """What the flow emits; it returns what the flow returns."""
        left_open: list[Opened] = []
        result: Any = None
        failed: Exception | None = None
        try:
            while True:
                if stop is not None and stop.is_set():
                    raise _Stopped
                try:
                    effect = flow.send(result) if failed is None else flow.throw(failed)
                except StopIteration as end:
                    returned: T = end.value
                    return returned
                result = failed = None
                if isinstance(effect, Emit):
                    yield effect.item
                    continue
                try:
                    result = self._perform(effect, left_open)
                except Exception as error:
                    failed = error
        finally:
            flow.close()
            for opened in left_open:
                opened.handle.response.close()

    def _perform(self, effect: Any, left_open: list[Opened]) -> Any:
        match effect:
            case Send(request):
                return self._send(request)
            case Open(request):
                response = self._open(request)
                opened = Opened(
                    response.status_code, headers_of(response), _Body(response, request)
                )
                left_open.append(opened)
                return opened
            case Read(opened):
                return self._read(opened.handle)
            case Close(opened):
                left_open.remove(opened)
                return opened.handle.response.close()
            case Sleep(seconds):
                return self._sleep(seconds)
            case Do(work):
                return work()
            case Together(flows, at_once):
                return self._together(flows, at_once)
        raise AssertionError(f"no such effect: {effect!r}")

    def _open(self, request: Request) -> httpx.Response:
        body = request.body
        built = self.http.build_request(
            request.method,
            request.url,
            headers=request.headers,
            content=body.chunks() if isinstance(body, Form) else body,
            timeout=timeout_of(request),
        )
        try:
            return self.http.send(built, stream=True, follow_redirects=False)
        except httpx.HTTPError as error:
            raise failure_of(error, request) from error

    def _send(self, request: Request) -> Response:
        response = self._open(request)
        try:
            content = response.read()
        except httpx.HTTPError as error:
            raise failure_of(error, request) from error
        finally:
            response.close()
        return Response(response.status_code, headers_of(response), content)

    def _read(self, body: _Body) -> bytes:
        try:
            return next(body.read, b"")
        except httpx.HTTPError as error:
            raise failure_of(error, body.request) from error

    def _together(self, flows: Any, at_once: int) -> list[Any]:
        stop = Event()
        with ThreadPoolExecutor(at_once, thread_name_prefix="tuneyard") as pool:
            running = [pool.submit(self.run, flow, stop) for flow in flows]
            try:
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
            finally:
                # Whatever ended the wait, also Ctrl-C: nothing goes on behind it.
                if not all(each.done() and not each.exception() for each in running):
                    stop.set()
                    for each in running:
                        each.cancel()
        for each in running:
            if each in done and (error := each.exception()) and not isinstance(error, _Stopped):
                raise error
        return [each.result() for each in running]
