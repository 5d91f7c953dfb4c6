"""A hub of models on loopback, as the Hugging Face hub's own client asks for them."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import Struct

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Hub(Struct, kw_only=True):
    """Models ``gated/NAME`` for those who bring one of the ``tokens``. With ``status`` it answers
    every question with that; ``asked`` is how often it was asked anything."""

    tokens: set[str]
    url: str = ""
    status: int | None = None
    asked: int = 0


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

    async def resolve(request: web.Request) -> web.Response:
        data = files[request.match_info["file"]]
        revision = request.match_info["revision"]
        headers = {"ETag": f'"{object_id(data)}"', "X-Repo-Commit": revision}
        return web.Response(body=data, headers=headers)

    app = web.Application(middlewares=[gate])
    app.router.add_get("/api/models/gated/{name}/tree/{revision}", tree)
    app.router.add_get("/gated/{name}/resolve/{revision}/{file}", resolve)
    async with TestServer(app, host="127.0.0.1") as server:
        hub.url = str(server.make_url("")).rstrip("/")
        yield hub
