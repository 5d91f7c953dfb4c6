"""The gateway process: one uvicorn worker on uvloop, with everything it talks to."""

import asyncio
import gc
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from random import getrandbits
from uuid import uuid4

import aiohttp
import uvicorn
import uvloop

from libs.bus.broker import make_broker
from libs.bus.rpc import answer, answer_pings
from libs.bus.service import START_PATIENCE, database, every
from libs.bus.streams import nudge_relay
from libs.contracts.gateway_rpc import KEEP_PLAN
from libs.eventlog.connection import connect
from libs.eventlog.groupcommit import GroupCommit
from libs.objectstore import ObjectStore, ObjectStoreSettings
from libs.observability.export import observe
from libs.observability.logs import configure_logs
from libs.settings import SettingsError, decode_settings, hub_address
from services.gateway.access.auth import Authenticator
from services.gateway.access.issuers import IssuersError, read_issuers
from services.gateway.access.limits import LimitsError, read_limits
from services.gateway.access.oidc import IdTokens
from services.gateway.access.peppers import PepperError, peppers_of
from services.gateway.access.plans import keep_plan
from services.gateway.access.rate_limit import RateLimiter
from services.gateway.access.shared_limits import PATIENCE, SharedLimits
from services.gateway.app import create_app
from services.gateway.catalog import Catalog, CatalogError, read_catalog
from services.gateway.dataset_rows import remove_deleted
from services.gateway.http.protocol import http_protocol
from services.gateway.http.server import Server
from services.gateway.leftovers import remove_abandoned
from services.gateway.parts import Parts
from services.gateway.settings import Settings
from services.gateway.streams.hub import Streams

POOL_SIZE = 16  # queries at once; a query takes under a millisecond, so few serve many requests
SWEEP_EVERY = 60.0  # seconds; a deleted data set's file goes within a minute of its grace
LEFTOVERS_EVERY = 3_600.0  # seconds; a day and an hour is soon enough for what nobody can see
GRACE = 4  # seconds for requests in flight; a supervisor waits a little longer


def now() -> datetime:
    return datetime.now(UTC)


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("gateway", settings.log_level)
    observe("gateway", os.environ)
    hub = hub_address(os.environ)
    models = read_catalog(settings.catalog)
    limits = read_limits(settings.limits)
    issuers = read_issuers(settings.oidc) if settings.oidc else ()
    peppers = peppers_of(settings.key_pepper, settings.key_pepper_previous)
    broker = make_broker(settings.nats_url, settings.nats_ca)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(database(settings.database_url, size=POOL_SIZE))
        issuer_session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        store = await stack.enter_async_context(ObjectStore(store_settings(settings)))
        log = GroupCommit(partial(connect, settings.database_url), nudge_relay(broker))
        await stack.enter_async_context(log)
        answer(broker, KEEP_PLAN, partial(keep_plan, pool))
        async with asyncio.timeout(START_PATIENCE):
            await broker.start()
        await answer_pings(broker, "gateway")
        stack.push_async_callback(broker.stop)
        # Under the name that the hub's own client reads in the trainer: one token, set once.
        hub_token = os.environ.get("HF_TOKEN")
        catalog = Catalog(models, settings.models_dir, store, hub=hub, hub_token=hub_token)
        limiter = RateLimiter(time.monotonic_ns)
        shared = SharedLimits(limiter, broker, uuid4().bytes)
        await stack.enter_async_context(every(PATIENCE, shared.be_together))
        parts = Parts(
            pool=pool,
            log=log,
            broker=broker,
            store=store,
            catalog=catalog,
            authenticator=Authenticator(
                pool,
                peppers=peppers,
                limits=limits,
                id_tokens=IdTokens(issuers, issuer_session, now=now, monotonic=time.monotonic),
                now=now,
                monotonic=time.monotonic,
            ),
            limiter=limiter,
            limits=limits,
            streams=Streams(broker),
            peppers=peppers,
            now=now,
            new_id=uuid4,
            new_request_id=lambda: f"{getrandbits(128):032x}",
        )
        watch = asyncio.create_task(catalog.watch())
        stack.callback(watch.cancel)
        sweep = every(SWEEP_EVERY, partial(remove_deleted, pool, store, now))
        await stack.enter_async_context(sweep)
        leftovers = every(LEFTOVERS_EVERY, partial(remove_abandoned, pool, store, now))
        await stack.enter_async_context(leftovers)
        await serve(parts, settings.listen)


def store_settings(settings: Settings) -> ObjectStoreSettings:
    return ObjectStoreSettings(
        endpoint=settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        bucket=settings.s3_bucket,
    )


async def serve(parts: Parts, listen: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    # What is loaded by now stays: walking it again and again would stall every request behind it.
    gc.collect()
    gc.freeze()
    host, _, port = listen.rpartition(":")
    config = uvicorn.Config(
        create_app(parts),
        http=http_protocol(parts.new_request_id),
        host=host,
        port=int(port),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal that stopped it once more when it is done; that must not end
        # the process before everything else is closed.
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    await Server(config, parts.streams.close).serve()


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except (SettingsError, CatalogError, LimitsError, IssuersError, PepperError) as error:
        sys.exit(str(error))
