"""NATS in TLS: a service says nothing to a server that can't prove who it is, and follows the
certificates as they change. The server's configuration is the one that Kubernetes gives it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import nats as nats_py
import nats.errors
import pytest
from faststream.nats import NatsBroker
from nats.aio.client import Client
from structlog.testing import capture_logs

from libs.bus.broker import make_broker
from libs.settings import SettingsError
from tests.support.certificates import authority, issue
from tests.support.nats_cluster import Node, single
from tests.support.waiting import eventually

NOT_TRUSTED = "of no CA that was named"
OTHER_NAMES = "for other names"
EXPIRED = "has expired"
NOT_IN_TLS = "did not answer in TLS"


@asynccontextmanager
async def connected(url: str, ca: Path | None) -> AsyncIterator[Client]:
    broker = make_broker(url, ca)
    async with asyncio.timeout(20):
        client = await broker.connect()
    try:
        yield client
    finally:
        await broker.stop()


async def is_served(client: Client) -> None:
    """Waits until JetStream answers over this connection."""

    async def answers() -> bool:
        try:
            await client.jetstream().account_info()
        except (nats.errors.Error, TimeoutError):
            return False
        return True

    await eventually(answers, bool)


async def refusal(url: str, ca: Path) -> str:
    """With what a service ends that gets no connection."""
    async with asyncio.timeout(20):
        with pytest.raises(SettingsError) as refused:
            await make_broker(url, ca).connect()
    return str(refused.value)


@pytest.fixture(scope="module")
async def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return issue(tmp_path_factory.mktemp("certificates"), authority())


@pytest.fixture(scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path
) -> AsyncIterator[Node]:
    async with single(tmp_path_factory.mktemp("nats"), certificates) as node:
        async with connected(node.url("operator"), certificates / "ca.crt") as client:
            await is_served(client)
        yield node


async def test_a_service_is_served_in_tls(server: Node, certificates: Path) -> None:
    async with connected(server.url("operator"), certificates / "ca.crt") as client:
        await is_served(client)
        assert client._transport._io_writer.get_extra_info("cipher")


async def test_nobody_is_served_in_plain_text(server: Node) -> None:
    plain = server.url("operator").replace("tls://", "nats://")
    with pytest.raises((nats.errors.Error, TimeoutError, OSError)):
        await nats_py.connect(plain, allow_reconnect=False, connect_timeout=1)


@pytest.mark.parametrize(
    ("case", "advised"),
    [("another CA", NOT_TRUSTED), ("another name", OTHER_NAMES), ("expired", EXPIRED)],
)
async def test_a_server_that_can_not_prove_who_it_is_is_told_no_password(
    tmp_path: Path, case: str, advised: str
) -> None:
    ours = authority()
    of = authority() if case == "another CA" else ours
    names = ["nats"] if case == "another name" else ["localhost"]
    ends_in = timedelta(seconds=-1) if case == "expired" else timedelta(days=1)
    place = issue(tmp_path / "certificates", of, names, ends_in=ends_in, trusted=ours)
    async with single(tmp_path / "nats", place) as node:
        assert advised in await refusal(node.url("operator"), place / "ca.crt")
        assert "accepted" not in node.log()

        async def log() -> str:
            return node.log()

        await eventually(log, lambda text: "TLS handshake error" in text)


async def test_a_server_that_begins_in_plain_text_is_told_no_password(certificates: Path) -> None:
    """By the scheme tls:// alone nats-py would go on in plain text with whoever wants no TLS."""
    heard = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"X","version":"2.15.1","max_payload":1048576}\r\n')
        heard.extend(await reader.read(1024))
        writer.write(b"-ERR 'Unknown Protocol Operation'\r\n" if b"CONNECT" not in heard else b"")
        heard.extend(await reader.read(1024))
        writer.close()

    listening = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        url = f"tls://operator:secret@localhost:{port}"
        assert NOT_IN_TLS in await refusal(url, certificates / "ca.crt")
    assert heard[:1] == b"\x16", "a handshake"
    assert b"CONNECT" not in heard
    assert b"secret" not in heard


async def test_a_service_comes_back_to_a_server_with_a_new_certificate(tmp_path: Path) -> None:
    ca = authority()
    place = issue(tmp_path / "certificates", ca)
    async with (
        single(tmp_path / "nats", place) as node,
        connected(node.url("operator"), place / "ca.crt") as client,
    ):
        await is_served(client)
        await node.end()
        issue(place, ca)
        await node.start()
        await is_served(client)
        assert client.stats["reconnects"] == 1


async def test_a_service_that_runs_waits_until_its_server_proves_who_it_is(tmp_path: Path) -> None:
    ca = authority()
    place = issue(tmp_path / "certificates", ca)
    async with (
        single(tmp_path / "nats", place) as node,
        connected(node.url("operator"), place / "ca.crt") as client,
    ):
        await is_served(client)
        await node.end()
        issue(place, authority(), trusted=ca)
        with capture_logs() as logs:
            await node.start()

            async def said() -> int:
                return sum(NOT_TRUSTED in str(one.get("advice")) for one in logs)

            await eventually(said, lambda times: times > 1)
        assert client.is_reconnecting
        await node.end()
        issue(place, ca)
        await node.start()
        await is_served(client)


async def test_a_service_reads_the_ca_again_when_another_one_has_taken_its_place(
    tmp_path: Path,
) -> None:
    place = issue(tmp_path / "certificates", authority())
    async with (
        single(tmp_path / "nats", place) as node,
        connected(node.url("operator"), place / "ca.crt") as client,
    ):
        await is_served(client)
        await node.end()
        issue(place, authority("the next one"))
        await node.start()
        await is_served(client)


async def test_a_ca_that_was_renewed_with_its_key_is_believed_by_who_has_the_former_one(
    tmp_path: Path,
) -> None:
    former = authority()
    place = issue(tmp_path / "certificates", authority(key=former.key))
    (tmp_path / "former.crt").write_bytes(former.pem)
    async with (
        single(tmp_path / "nats", place) as node,
        connected(node.url("operator"), tmp_path / "former.crt") as client,
    ):
        await is_served(client)


async def test_while_the_ca_is_changed_a_service_may_be_told_both(tmp_path: Path) -> None:
    now, following = authority(), authority("the next one")
    (tmp_path / "both.crt").write_bytes(now.pem + following.pem)
    for number, ca in enumerate((now, following)):
        place = issue(tmp_path / f"certificates-{number}", ca)
        async with (
            single(tmp_path / f"nats-{number}", place) as node,
            connected(node.url("operator"), tmp_path / "both.crt") as client,
        ):
            await is_served(client)


def test_a_ca_for_an_address_in_plain_text_is_a_mistake(certificates: Path) -> None:
    with pytest.raises(SettingsError, match="tls://"):
        make_broker("nats://relay:x@nats:4222", certificates / "ca.crt")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_that_can_not_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"ca\.crt can't be read .* PEM"):
        make_broker("tls://relay:x@nats:4222", file)


def test_the_name_is_the_addresss_for_every_server_that_it_leads_to(certificates: Path) -> None:
    broker: NatsBroker = make_broker("tls://relay:a,b@nats:4222", certificates / "ca.crt")
    assert broker._connection_kwargs["tls_hostname"] == urlsplit("tls://nats:4222").hostname
