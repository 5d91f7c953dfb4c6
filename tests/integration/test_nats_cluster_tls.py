"""Three NATS servers in TLS, to clients and between themselves, with the configuration that
deploy/k8s/components/tls gives them; and what renews their certificates there."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from faststream.nats import NatsBroker

from deploy.local.program import wheel_executable
from libs.bus.broker import make_broker
from libs.bus.streams import STREAMS
from tests.integration.test_nats_cluster import declared, stored
from tests.support.certificates import Authority, authority, issue
from tests.support.nats_cluster import IN_TLS, Node, cluster
from tests.support.postgres_front import front_of
from tests.support.running import running
from tests.support.stack import Database
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def ca() -> Authority:
    return authority()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, ca: Authority) -> list[Path]:
    """What is mounted into each server: of one Secret, but not at one moment."""
    folder = tmp_path_factory.mktemp("certificates")
    return [issue(folder / str(number), ca) for number in range(3)]


@asynccontextmanager
async def speaking(node: Node, user: str, ca: Path) -> AsyncIterator[NatsBroker]:
    broker = make_broker(node.url(user), ca)
    await broker.connect()
    try:
        yield broker
    finally:
        await broker.stop()


@pytest.fixture(scope="module")
async def nodes(
    tmp_path_factory: pytest.TempPathFactory, places: list[Path]
) -> AsyncIterator[list[Node]]:
    async with cluster(tmp_path_factory.mktemp("nats"), certificates=places) as started:
        async with speaking(started[0], "relay", places[0] / "ca.crt") as relay:
            client = await relay.connect()
            await eventually(lambda: declared(client, replicas=3), bool)
        yield started


async def monitored(node: Node, question: str) -> dict[str, object]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{node.monitor}/{question}") as answer,
    ):
        found: dict[str, object] = await answer.json()
        return found


async def shown_to_clients(node: Node, place: Path) -> bytes:
    """The certificate that the server shows to whoever connects now."""
    return await shown(node.port, ssl.create_default_context(cafile=place / "ca.crt"))


async def shown_to_servers(node: Node, place: Path) -> bytes:
    """The same, to another server, which shows its own."""
    trusting = ssl.create_default_context(cafile=place / "ca.crt")
    trusting.load_cert_chain(place / "tls.crt", place / "tls.key")
    return await shown(node.routes, trusting)


async def shown(port: int, trusting: ssl.SSLContext) -> bytes:
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
    )
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    assert isinstance(certificate, bytes)
    return certificate


def held(place: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((place / "tls.crt").read_text())


async def test_every_stream_is_on_three_servers_that_prove_to_each_other_who_they_are(
    nodes: list[Node], places: list[Path]
) -> None:
    async with (
        speaking(nodes[0], "operator", places[0] / "ca.crt") as operator,
        speaking(nodes[1], "trainer", places[1] / "ca.crt") as trainer,
    ):
        asked = (await operator.connect()).jetstream()
        for stream in STREAMS:
            assert stream.name is not None
            info = await asked.stream_info(stream.name)
            assert info.cluster is not None
            assert len(info.cluster.replicas or ()) == 2
        before = (await asked.stream_info("REPORTS")).state.messages
        report, client = f"reports.started.{uuid4()}", await trainer.connect()
        await eventually(lambda: stored(client, report, b"{}"), bool)
        assert (await asked.stream_info("REPORTS")).state.messages > before
    for node, place in zip(nodes, places, strict=True):
        assert await shown_to_servers(node, place) == held(place)


async def test_a_server_of_another_ca_is_not_let_in(tmp_path: Path, ca: Authority) -> None:
    ours = [issue(tmp_path / str(number), ca) for number in range(2)]
    strange = issue(tmp_path / "2", authority(), trusted=ca)
    async with cluster(tmp_path / "nats", certificates=[*ours, strange]) as nodes:

        async def log() -> str:
            return nodes[0].log()

        await eventually(log, lambda text: "TLS route handshake error" in text)

        async def neighbours() -> set[object]:
            routes = (await monitored(nodes[0], "routez"))["routes"]
            return {route["remote_name"] for route in routes}  # type: ignore[attr-defined]

        assert await eventually(neighbours, bool) == {"nats-1"}
        assert (await monitored(nodes[2], "routez"))["num_routes"] == 0


async def test_a_service_works_in_tls_with_nats_and_with_postgresql(
    nodes: list[Node], places: list[Path], fresh_database: Database, tmp_path: Path
) -> None:
    place = issue(tmp_path, authority("postgres"))
    ca = places[0] / "ca.crt"
    async with (
        front_of(fresh_database, place) as front,
        speaking(nodes[0], "operator", ca) as operator,
    ):
        settings = {
            "database_url": front.url("scheduler", place / "ca.crt"),
            "nats_url": nodes[0].url("scheduler"),
            "nats_ca": str(ca),
        }
        async with running("scheduler", settings, operator):
            connections = (await monitored(nodes[0], "connz?auth=1"))["connections"]
            (one,) = (c for c in connections if c["name"] == "scheduler")  # type: ignore[attr-defined]
            assert one["tls_version"] == "1.3"
        assert set(front.versions) == {"TLSv1.3"}


@asynccontextmanager
async def followed(nodes: Sequence[Node], places: Sequence[Path]) -> AsyncIterator[None]:
    """What runs in the container `certificates` beside every server, looking more often."""
    found = Path(wheel_executable("nats-server")).parent
    scripts = [
        await asyncio.create_subprocess_exec(
            *("sh", str(IN_TLS / "follow.sh")),
            env={
                "PATH": f"{found}{os.pathsep}{os.environ['PATH']}",
                "CERTIFICATES": str(place),
                "PID_FILE": str(node.config.with_name("nats.pid")),
                "MONITOR": f"http://127.0.0.1:{node.monitor}",
                "EVERY": "0.2",
            },
        )
        for node, place in zip(nodes, places, strict=True)
    ]
    try:
        yield
        assert [script.returncode for script in scripts] == [None] * len(scripts)
    finally:
        for script in scripts:
            if script.returncode is None:
                script.kill()
            await script.wait()


async def test_servers_take_a_renewed_certificate_while_they_serve(
    nodes: list[Node], places: list[Path], ca: Authority
) -> None:
    async with (
        speaking(nodes[0], "operator", places[0] / "ca.crt") as operator,
        speaking(nodes[1], "trainer", places[1] / "ca.crt") as trainer,
        followed(nodes, places),
    ):
        for place in places:
            issue(place, ca)
        for node, place in zip(nodes, places, strict=True):
            await eventually(partial(shown_to_clients, node, place), is_held_in(place))
            await eventually(partial(shown_to_servers, node, place), is_held_in(place))
            assert node.running.returncode is None
            assert "Reloaded" in node.log()
        report, client = f"reports.started.{uuid4()}", await trainer.connect()
        await eventually(lambda: stored(client, report, b"{}"), bool)
        for broker in (operator, trainer):
            assert (await broker.connect()).stats["reconnects"] == 0, "no connection was ended"


async def test_a_server_that_did_not_take_a_certificate_is_asked_until_it_does(
    nodes: list[Node], places: list[Path], ca: Authority
) -> None:
    node, place = nodes[2], places[2]
    whole = node.config.read_text()

    async def refusals() -> int:
        return node.log().count("Failed to reload server configuration")

    async with followed([node], [place]):
        node.config.write_text(f"{whole}\nhalf: {{")
        issue(place, ca)
        await eventually(refusals, lambda number: number > 2)
        assert await shown_to_clients(node, place) != held(place)
        node.config.write_text(whole)
        await eventually(partial(shown_to_clients, node, place), is_held_in(place))
        reloads = node.log().count("Reloaded server configuration")
        await asyncio.sleep(2.0)  # ten looks
        assert node.log().count("Reloaded server configuration") <= reloads + 1, "not for ever"


def is_held_in(place: Path) -> Callable[[bytes], bool]:
    return lambda shown: shown == held(place)
