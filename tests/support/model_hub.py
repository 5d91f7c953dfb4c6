"""A hub of models on loopback, as the Hugging Face hub's own client asks for them."""

import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Literal

from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import Struct

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]

Broken = Literal["reset", "closed", "cut"]
"""How weights end in their middle: with the connection, harshly or in order, or as if whole."""

AT_ONCE = struct.pack("ii", 1, 0)  # of SO_LINGER: what was not sent is dropped, the peer is reset


class Hub(Struct, kw_only=True):
    """Models ``gated/NAME`` for those who bring one of the ``tokens``. With ``status`` it answers
    every question with that; ``asked`` is how often it was asked anything. While it is ``broken``,
    so are the weights that it sends; ``halves`` is how often it did so."""

    tokens: set[str]
    url: str = ""
    status: int | None = None
    asked: int = 0
    broken: Broken | None = None
    halves: int = 0


def object_id(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@asynccontextmanager
async def model_hub(tokens: set[str], files: Mapping[str, bytes]) -> AsyncIterator[Hub]:
    """``files`` are those of every model and revision."""
    hub = Hub(tokens=tokens)

    @web.middleware
    async def gate(request: web.Request, handler: Answering) -> web.StreamResponse:
        hub.asked += 1
        if hub.status is not None:
            return web.Response(status=hub.status)
        if request.headers.get("Authorization") not in {f"Bearer {one}" for one in hub.tokens}:
            return web.Response(status=401, headers={"X-Error-Code": "GatedRepo"})
        return await handler(request)

    async def tree(_: web.Request) -> web.Response:
        return web.json_response(
            [
                {"type": "file", "path": name, "size": len(data), "oid": object_id(data)}
                for name, data in files.items()
            ]
        )

    async def resolve(request: web.Request) -> web.StreamResponse:
        name, revision = request.match_info["file"], request.match_info["revision"]
        data = files[name]
        headers = {"ETag": f'"{object_id(data)}"', "X-Repo-Commit": revision}
        if hub.broken and request.method == "GET" and name.endswith(".safetensors"):
            hub.halves += 1
            return await half(request, data, headers, hub.broken)
        return web.Response(body=data, headers=headers)

    app = web.Application(middlewares=[gate])
    app.router.add_get("/api/models/gated/{name}/tree/{revision}", tree)
    app.router.add_get("/gated/{name}/resolve/{revision}/{file}", resolve)
    async with TestServer(app, host="127.0.0.1") as server:
        hub.url = str(server.make_url("")).rstrip("/")
        yield hub


async def half(
    request: web.Request, data: bytes, headers: Mapping[str, str], broken: Broken
) -> web.StreamResponse:
    """The first half, or nothing to who has that already and asks for what comes behind it."""
    start = request.http_range.start or 0
    sent = data[start : len(data) // 2]
    if broken == "cut":
        return web.Response(body=sent, headers=headers)
    answer = web.StreamResponse(status=206 if start else 200, headers=headers)
    answer.content_length = len(data) - start
    await answer.prepare(request)
    await answer.write(sent)
    assert request.transport is not None
    if broken == "reset":
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        request.transport.abort()
    else:
        request.transport.close()
    return answer
