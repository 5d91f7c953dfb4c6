"""The sandbox as one web application: the API, the pages, the control surface, the courier.

aiohttp, since a test must be able to cut a connection as a broken network does.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from urllib.parse import urlsplit

from aiohttp import web

from deploy.local.sandbox import checkout_page, control, dashboard, portal_page
from deploy.local.sandbox.api import Api
from deploy.local.sandbox.book import Book
from deploy.local.sandbox.control import Control
from deploy.local.sandbox.events import Courier, repeat
from deploy.local.sandbox.faults import Faults
from deploy.local.sandbox.settings import Settings
from deploy.local.sandbox.store import Store

LARGEST_BODY = 256 * 1024
CHORES_EVERY_SECONDS = 30.0

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
Shown = Callable[[Book, str], web.Response]
Done = Callable[[Book, str, dict[str, str]], web.Response]


def make_app(
    settings: Settings, *, clock: Callable[[], float], new_token: Callable[[], str]
) -> web.Application:
    """Opens the state file; it is closed when the application is cleaned up. ``clock``: unix
    seconds; ``new_token``: random letters and digits, too many to guess."""
    book = Book(
        Store(settings.state_file), base_url=settings.base_url, clock=clock, new_token=new_token
    )
    faults = Faults()
    courier = None
    if settings.webhook_url is not None:
        secret = settings.webhook_secret
        courier = Courier(book, faults, url=settings.webhook_url, secret=secret)
    nudge = courier.nudge if courier is not None else _nothing
    api = Api(book, api_keys=settings.api_keys, faults=faults, changed=nudge)
    surface = Control(book, faults, token=settings.control_token, changed=nudge)
    hosts = {urlsplit(f"//{settings.listen}").netloc, urlsplit(settings.base_url).netloc}

    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_only_for(hosts)])
    app.router.add_route("*", "/v1/{path:.*}", api.answer)
    app.router.add_route("*", control.PREFIX + "{path:.*}", surface.answer)
    app.router.add_get("/", partial(_dashboard, book))
    _add_page(app, book, nudge, "/pay/{id}", checkout_page.show, checkout_page.act)
    _add_page(
        app, book, nudge, "/approve/{id}", checkout_page.show_approval, checkout_page.answer_bank
    )
    _add_page(app, book, nudge, "/portal/{id}", portal_page.show, portal_page.act)
    app.cleanup_ctx.append(partial(_background, book, courier))
    return app


async def _background(
    book: Book, courier: Courier | None, _: web.Application
) -> AsyncIterator[None]:
    def chores() -> None:
        with book.store.transaction():
            control.chores(book)

    tasks = [asyncio.create_task(repeat(chores, every=CHORES_EVERY_SECONDS))]
    if courier is not None:
        tasks.append(asyncio.create_task(courier.run()))
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    book.store.close()


def _add_page(
    app: web.Application, book: Book, nudge: Callable[[], None], path: str, show: Shown, act: Done
) -> None:
    async def get(request: web.Request) -> web.Response:
        return show(book, request.match_info["id"])

    async def post(request: web.Request) -> web.Response:
        form = await request.post()
        chosen = {name: value for name, value in form.items() if isinstance(value, str)}
        try:
            return act(book, request.match_info["id"], chosen)
        finally:
            nudge()

    app.router.add_get(path, get)
    app.router.add_post(path, post)


async def _dashboard(book: Book, _: web.Request) -> web.Response:
    return dashboard.show(book)


def _only_for(hosts: set[str]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A page elsewhere neither reaches us by a name of its own that leads to this machine, nor
    presses our buttons."""
    hosts = hosts | {f"localhost:{host.rpartition(':')[2]}" for host in hosts}

    @web.middleware
    async def guard(request: web.Request, handler: Answering) -> web.StreamResponse:
        if request.host not in hosts:
            raise web.HTTPMisdirectedRequest
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc not in hosts:
            raise web.HTTPForbidden(text="Not from another page.")
        return await handler(request)

    return guard


def _nothing() -> None:
    """There is no courier to wake."""
