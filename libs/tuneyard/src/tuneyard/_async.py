"""Runs flows on an asynchronous httpx client, under asyncio or trio."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
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
from tuneyard._pages import AsyncPages
from tuneyard.types import Page

T = TypeVar("T")


class _Body:
    """An open response; `read` continues where it was."""

    def __init__(self, response: httpx.Response, request: Request) -> None:
        self.response, self.request = response, request
        self.read = response.aiter_raw()


def new_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=LIMITS)


class Driver:
    def __init__(self, http: httpx.AsyncClient, sleep: Callable[[float], None] | None) -> None:
        self.http = http
        self._sleep = sleep

    def pages(self, walk: Callable[[], Emitting]) -> AsyncPages[Any]:
        def pages() -> AsyncIterator[Page[Any]]:
            return self.iterate(walk())

        return AsyncPages(pages)

    async def run(self, flow: Flow[T]) -> T:
        ended: list[T] = []
        async for _ in self._steps(flow, ended):
            pass
        return ended[0]

    def iterate(self, flow: Emitting) -> AsyncIterator[Any]:
        return self._steps(flow, [])

    async def _steps(self, flow: Flow[T], ended: list[T]) -> AsyncIterator[Any]:
        """What the flow emits; what it returns is put into ``ended``."""
        left_open: list[Opened] = []
        result: Any = None
        failed: Exception | None = None
        try:
            while True:
                try:
                    effect = flow.send(result) if failed is None else flow.throw(failed)
                except StopIteration as end:
                    ended.append(end.value)
                    return
                result = failed = None
                if isinstance(effect, Emit):
                    yield effect.item
                    continue
                try:
                    result = await self._perform(effect, left_open)
                except Exception as error:
                    failed = error
        finally:
            flow.close()
            with anyio.CancelScope(shield=True):
                for opened in left_open:
                    await opened.handle.response.aclose()

    async def _perform(self, effect: Any, left_open: list[Opened]) -> Any:
        match effect:
            case Send(request):
                return await self._send(request)
            case Open(request):
                response = await self._open(request)
                opened = Opened(
                    response.status_code, headers_of(response), _Body(response, request)
                )
                left_open.append(opened)
                return opened
            case Read(opened):
                return await self._read(opened.handle)
            case Close(opened):
                left_open.remove(opened)
                return await opened.handle.response.aclose()
            case Sleep(seconds):
                if self._sleep is not None:
                    return self._sleep(seconds)
                return await anyio.sleep(seconds)
            case Do(work):
                return await anyio.to_thread.run_sync(work)
            case Together(flows, at_once):
                return await self._together(flows, at_once)
        raise AssertionError(f"no such effect: {effect!r}")

    async def _open(self, request: Request) -> httpx.Response:
        body = request.body
        built = self.http.build_request(
            request.method,
            request.url,
            headers=request.headers,
            content=_streamed(body) if isinstance(body, Form) else body,
            timeout=timeout_of(request),
        )
        try:
            return await self.http.send(built, stream=True, follow_redirects=False)
        except httpx.HTTPError as error:
            raise failure_of(error, request) from error

    async def _send(self, request: Request) -> Response:
        response = await self._open(request)
        try:
            content = await response.aread()
        except httpx.HTTPError as error:
            raise failure_of(error, request) from error
        finally:
            await response.aclose()
        return Response(response.status_code, headers_of(response), content)

    async def _read(self, body: _Body) -> bytes:
        try:
            return await anext(body.read, b"")
        except httpx.HTTPError as error:
            raise failure_of(error, body.request) from error

    async def _together(self, flows: Any, at_once: int) -> list[Any]:
        results: list[Any] = [None] * len(flows)
        failures: list[Exception] = []
        limit = anyio.CapacityLimiter(at_once)

        async def one(place: int, flow: Flow[Any], group: Any) -> None:
            async with limit:
                try:
                    results[place] = await self.run(flow)
                except Exception as error:
                    failures.append(error)
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for place, flow in enumerate(flows):
                group.start_soon(one, place, flow, group)
        if failures:
            raise failures[0]
        return results


async def _streamed(form: Form) -> AsyncIterator[bytes]:
    """Its chunks, read in a thread: a file may lie on a slow disk."""
    chunks = form.chunks()
    while chunk := await anyio.to_thread.run_sync(next, chunks, b""):
        yield chunk
