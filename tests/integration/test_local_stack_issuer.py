"""The stack's own issuer: a real process, and a gateway that believes it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from deploy.local import issuer
from deploy.local.program import StackError, free_port, wait_until
from deploy.local.s3 import S3Settings
from deploy.local.supervisor import Supervisor
from deploy.local.up import answers_well
from services.gateway.access.issuers import read_issuers
from tests.integration.gateway_app import bearer, decoded, running_gateway
from tests.support.stack import Database, Nats

START_SECONDS = 90.0


@asynccontextmanager
async def running(folder: Path, port: int) -> AsyncIterator[str]:
    """The issuer's address, while it runs as it does in a stack in ``folder``."""
    supervisor, url = Supervisor(folder, print), issuer.url(port)
    await supervisor.start(issuer.program(folder, port=port))
    try:
        await wait_until(
            lambda: answers_well(url + issuer.JWKS_PATH),
            what="issuer",
            log=supervisor.log_file("issuer"),
            timeout_seconds=START_SECONDS,
        )
        yield url
    finally:
        await supervisor.stop_all(within_seconds=60)


@pytest.fixture(scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
async def url(folder: Path) -> AsyncIterator[str]:
    async with running(folder, free_port()) as address:
        yield address


async def test_its_tokens_open_an_account_on_a_gateway_that_trusts_it(
    url: str, folder: Path, database: Database, nats_server: Nats, s3: S3Settings, tmp_path: Path
) -> None:
    trusted = read_issuers(issuer.trusted_file(folder))
    token = issuer.id_token(url, subject="alice", email="alice@example.org", name="Alice")

    async with running_gateway(database, nats_server, s3, tmp_path, trusted) as gateway:
        me = await gateway.client.get("/v1/me", headers=bearer(token))

    assert me.status_code == 200, me.text
    assert (decoded(me)["name"], decoded(me)["email"]) == ("Alice", "alice@example.org")


async def test_its_key_is_its_own_and_outlives_it(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, port) as url:
        first = (await asyncio.to_thread(httpx.get, url + issuer.JWKS_PATH)).json()
    async with running(tmp_path, port) as url:
        second = (await asyncio.to_thread(httpx.get, url + issuer.JWKS_PATH)).json()

    key = tmp_path / "issuer" / "key.pem"
    assert first == second
    assert key.stat().st_mode & 0o777 == 0o600
    assert not {"d", "p", "q"} & set(first["keys"][0])


def test_it_can_be_discovered_and_has_a_page(url: str) -> None:
    found = httpx.get(f"{url}/.well-known/openid-configuration").json()

    assert found["issuer"] == url
    assert httpx.get(found["jwks_uri"]).json()["keys"][0]["alg"] == "RS256"
    page = httpx.get(found["authorization_endpoint"])
    assert page.headers["content-type"].startswith("text/html")
    assert 'name="subject"' in page.text


def test_the_pages_form_gets_a_token(url: str) -> None:
    answer = httpx.post(f"{url}/token", data={"subject": "bob", "email": "", "name": ""})

    assert answer.status_code == 200, answer.text
    assert answer.json()["token_type"] == "Bearer"
    assert answer.json()["id_token"].count(".") == 2


def test_a_page_from_elsewhere_gets_nothing(url: str) -> None:
    elsewhere = {"Host": "evil.example"}

    assert httpx.get(f"{url}/jwks.json", headers=elsewhere).status_code == 421
    asked = httpx.post(f"{url}/token", json={"subject": "alice"}, headers=elsewhere)
    assert asked.status_code == 421
    assert "id_token" not in asked.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{}", b'{"subject": ""}', b'{"subject": 7}', b"[" * 9_000, b"x" * 20_000]
)
def test_what_names_no_subject_is_refused(url: str, body: bytes) -> None:
    answer = httpx.post(f"{url}/token", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["error"]


def test_without_the_issuer_a_token_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="does not answer"):
        issuer.id_token(issuer.url(free_port()), subject="alice", email=None, name=None)
