"""A real gateway for tests: on PostgreSQL, NATS and S3, among its `neighbours`."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import httpx
import msgspec
import uvicorn
from msgspec import Struct

from deploy.local.account import REQUESTS_PER_MINUTE
from deploy.local.program import free_port
from deploy.local.s3 import S3Settings
from libs.bus.broker import make_broker
from libs.bus.rpc import answer
from libs.bus.service import every
from libs.contracts.gateway_rpc import KEEP_PLAN
from libs.eventlog.connection import connect, create_pool
from libs.eventlog.groupcommit import GroupCommit
from libs.objectstore import ObjectStore
from libs.settings import HUB
from services.billing import ledger
from services.billing.provider import PaymentProvider
from services.gateway.access.accounts import create_account
from services.gateway.access.auth import Authenticator
from services.gateway.access.issuers import Issuer
from services.gateway.access.keys import create_key
from services.gateway.access.limits import read_limits
from services.gateway.access.oidc import IdTokens
from services.gateway.access.peppers import Peppers
from services.gateway.access.plans import keep_plan
from services.gateway.access.rate_limit import SECOND, RateLimiter
from services.gateway.access.shared_limits import PATIENCE, SharedLimits
from services.gateway.app import create_app
from services.gateway.catalog import Catalog, read_catalog
from services.gateway.http.protocol import http_protocol
from services.gateway.http.server import Server
from services.gateway.parts import Parts
from services.gateway.streams.hub import MAX_STREAMS, Streams
from services.scheduler.handlers import Scheduler
from services.webhooks.answering import Answering
from services.webhooks.secrets import SECRET_BYTES
from tests.integration.neighbours import neighbours
from tests.support.objects import store_settings
from tests.support.stack import Database, Nats

ROOT = Path(__file__).parents[2]
PEPPER = b"pepper"
PEPPERS = Peppers(PEPPER)
HEARTBEAT = 0.3  # seconds, of streams
ROWS = b"".join(
    b'{"messages": [{"role": "user", "content": "%d plus one?"},'
    b' {"role": "assistant", "content": "%d"}]}\n' % (n, n + 1)
    for n in range(200)
)


class Clock(Struct):
    """The wall clock, which a test may move, and the monotonic one, which it may stop, and move
    forward."""

    ahead: timedelta = timedelta()
    elapsed: float = 0.0
    stopped_at: float | None = None

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return (time.monotonic() if self.stopped_at is None else self.stopped_at) + self.elapsed


class Gateway(Struct, kw_only=True):
    """The running gateway, and an account with a key and money. ``client`` sends no key."""

    url: str
    client: httpx.AsyncClient
    account_id: UUID
    key: str
    clock: Clock
    parts: Parts
    admin: Any
    wakes: list[datetime]
    """When webhooks' sender was told that something may be due."""
    answers: dict[str, Any]
    """What the scripted services say, by RPC name; a callable gets the request."""

    @property
    def headers(self) -> dict[str, str]:
        return bearer(self.key)

    async def account(
        self, *, cents: int, requests_per_minute: int | None = REQUESTS_PER_MINUTE
    ) -> tuple[UUID, str]:
        """A new account with a balance, and its key; None: it may ask as often as its plan has."""
        account_id, now = uuid4(), self.clock.now()
        await create_account(
            self.admin,
            account_id=account_id,
            name="test",
            now=now,
            requests_per_minute=requests_per_minute,
        )
        if cents:
            async with self.admin.acquire() as connection:
                await ledger.grant(
                    connection,
                    account_id=account_id,
                    amount_cents=cents,
                    entry_id=uuid4(),
                    memo="test",
                    now=now,
                )
        key = await create_key(
            self.admin,
            account_id=account_id,
            name="test",
            pepper=PEPPER,
            secret=secrets.token_bytes(32),
            now=now,
        )
        return account_id, key


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def run_form(**changes: str) -> dict[str, str]:
    return {
        "model_id": "tiny-llama",
        "model_terms_accepted": "true",
        "data_policy_accepted": "true",
    } | changes


@asynccontextmanager
async def running_gateway(
    database: Database,
    nats: Nats,
    s3: S3Settings,
    models_dir: Path,
    issuers: Sequence[Issuer] = (),
    provider: PaymentProvider | None = None,
    most_streams: int = MAX_STREAMS,
    peppers: Peppers = PEPPERS,
) -> AsyncIterator[Gateway]:
    clock, answers = Clock(), dict[str, Any]()
    wakes: list[datetime] = []
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        admin = await enter(create_pool(database.admin_dsn, size=4))
        await enter(_among_neighbours(database, nats, clock, wakes, answers, provider))
        parts = await enter(
            _parts(database, nats, s3, models_dir, issuers, most_streams, peppers, clock)
        )
        url = await enter(_served(parts))
        client = await enter(httpx.AsyncClient(base_url=url, timeout=30))
        gateway = Gateway(
            url=url,
            client=client,
            account_id=UUID(int=0),
            key="",
            clock=clock,
            parts=parts,
            admin=admin,
            wakes=wakes,
            answers=answers,
        )
        gateway.account_id, gateway.key = await gateway.account(cents=1_000_000)
        yield gateway


@asynccontextmanager
async def _among_neighbours(
    database: Database,
    nats: Nats,
    clock: Clock,
    wakes: list[datetime],
    answers: dict[str, Any],
    provider: PaymentProvider | None,
) -> AsyncIterator[None]:
    async with (
        create_pool(database.dsn("billing"), size=8) as billing,
        create_pool(database.dsn("scheduler"), size=2) as scheduling,
        create_pool(database.dsn("webhooks"), size=4) as sending,
    ):
        scheduler = Scheduler(pool=scheduling, now=clock.now, new_id=uuid4, committed=lambda: None)
        answering = Answering(
            pool=sending,
            now=clock.now,
            new_id=uuid4,
            new_secret=partial(secrets.token_bytes, SECRET_BYTES),
            wake=lambda: wakes.append(clock.now()),
            allow_loopback=False,
        )
        async with neighbours(nats, billing, scheduler, answering, answers, clock.now, provider):
            yield


@asynccontextmanager
async def _parts(
    database: Database,
    nats: Nats,
    s3: S3Settings,
    models_dir: Path,
    issuers: Sequence[Issuer],
    most_streams: int,
    peppers: Peppers,
    clock: Clock,
) -> AsyncIterator[Parts]:
    model = models_dir / "tiny-llama"
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(create_pool(database.dsn("gateway"), size=16))
        broker = make_broker(nats.url("gateway"))
        answer(broker, KEEP_PLAN, partial(keep_plan, pool))
        await broker.start()
        stack.push_async_callback(broker.stop)
        store = await enter(ObjectStore(store_settings(s3)))
        session = await enter(aiohttp.ClientSession())
        limits = read_limits(ROOT / "limits.toml")
        limiter = RateLimiter(lambda: int(clock.monotonic() * SECOND))
        shared = SharedLimits(limiter, broker, uuid4().bytes)
        await enter(every(PATIENCE, shared.be_together))
        yield Parts(
            pool=pool,
            log=await enter(GroupCommit(partial(connect, database.dsn("gateway")))),
            broker=broker,
            store=store,
            catalog=Catalog(read_catalog(ROOT / "catalog.toml"), models_dir, store, hub=HUB),
            authenticator=Authenticator(
                pool,
                peppers=peppers,
                limits=limits,
                id_tokens=IdTokens(issuers, session, now=clock.now, monotonic=clock.monotonic),
                now=clock.now,
                monotonic=clock.monotonic,
            ),
            limiter=limiter,
            limits=limits,
            streams=Streams(broker, heartbeat=HEARTBEAT, most=most_streams),
            peppers=peppers,
            now=clock.now,
            new_id=uuid4,
            new_request_id=lambda: uuid4().hex,
        )


@asynccontextmanager
async def _served(parts: Parts) -> AsyncIterator[str]:
    port = free_port()
    config = uvicorn.Config(
        create_app(parts),
        http=http_protocol(parts.new_request_id),
        host="127.0.0.1",
        port=port,
        log_config=None,
        access_log=False,
    )
    server = Server(config, parts.streams.close)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


def decoded(response: httpx.Response) -> Any:
    return msgspec.json.decode(response.content)
