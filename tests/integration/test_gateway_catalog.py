"""A hub model is available when the hub hands its pinned revision to us, and only then."""

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from faststream.nats import NatsBroker

from deploy.local.program import free_port
from deploy.local.s3 import S3Settings
from libs.eventlog.connection import create_pool
from libs.objectstore import ObjectStore
from services.gateway.access.accounts import create_account
from services.gateway.access.key_text import SECRET_BYTES
from services.gateway.access.keys import create_key
from services.gateway.catalog import Catalog, CatalogModel, read_catalog
from tests.support.model_hub import model_hub
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
TOKEN = "hf_of_a_known_person"
PEPPER = b"pepper"


def llama() -> CatalogModel:
    models = read_catalog(ROOT / "catalog.toml")
    return next(model for model in models if model.slug == "llama-3.1-8b")


@pytest.fixture
async def hub() -> AsyncIterator[TestServer]:
    """Hands out the pinned revision of one gated model, to whoever brings the token."""

    async def resolve(request: web.Request) -> web.Response:
        known = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        return web.Response(status=200 if known else 401)

    source = llama().source
    app = web.Application()
    app.router.add_get(f"/{source.location}/resolve/{source.revision}/config.json", resolve)
    async with TestServer(app, host="127.0.0.1") as server:
        yield server


@pytest.mark.parametrize(("token", "available"), [(TOKEN, True), (None, False), ("other", False)])
async def test_a_gated_model_is_available_to_who_has_its_token(
    hub: TestServer, store: ObjectStore, tmp_path: Path, token: str | None, available: bool
) -> None:
    catalog = Catalog(
        (llama(),), tmp_path, store, hub=str(hub.make_url("")).rstrip("/"), hub_token=token
    )
    assert not catalog.available(llama())
    await catalog.ask_once()
    assert catalog.available(llama()) is available


async def key_of_somebody(database: Database) -> str:
    now, account_id = datetime.now(UTC), uuid4()
    async with create_pool(database.admin_dsn, size=1) as admin:
        await create_account(admin, account_id=account_id, name="test", now=now)
        return await create_key(
            admin,
            account_id=account_id,
            name="test",
            pepper=PEPPER,
            secret=secrets.token_bytes(SECRET_BYTES),
            now=now,
        )


async def test_the_hub_that_is_asked_is_the_one_that_trainers_are_told_of(
    database: Database, nats_server: Nats, s3: S3Settings, operator: NatsBroker, tmp_path: Path
) -> None:
    """A whole gateway, with the variables of the hub's own client."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        (ROOT / "catalog.toml").read_text().replace(llama().source.location, "gated/llama")
    )
    port, key = free_port(), await key_of_somebody(database)
    settings = {
        "database_url": database.dsn("gateway"),
        "nats_url": nats_server.url("gateway"),
        "s3_endpoint": s3.endpoint,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_bucket": s3.bucket,
        "key_pepper": PEPPER.hex(),
        "catalog": str(catalog),
        "models_dir": str(tmp_path),
        "limits": str(ROOT / "limits.toml"),
        "listen": f"127.0.0.1:{port}",
    }

    async def available() -> set[str]:
        try:
            answer = await client.get("/v1/base-models", headers={"Authorization": f"Bearer {key}"})
        except httpx.ConnectError:
            return set()
        return {model["slug"] for model in answer.json()["data"] if model["available"]}

    async with (
        model_hub({TOKEN}, {"config.json": b"{}"}) as mirror,
        running("gateway", settings, operator, more={"HF_ENDPOINT": mirror.url, "HF_TOKEN": TOKEN}),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert await eventually(available, len) == {llama().slug}
