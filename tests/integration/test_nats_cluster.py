"""Three NATS servers, as Kubernetes starts them: what was acknowledged outlives one of them."""

import signal
from collections.abc import AsyncIterator
from functools import partial
from uuid import uuid4

import aiohttp
import nats
import nats.errors
import nats.js.errors
import pytest

from libs.bus.streams import STREAMS, declare_streams
from tests.support.manifests import of_kind
from tests.support.nats_cluster import Node, cluster
from tests.support.waiting import eventually

NOT_YET = (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error)


async def declared(relay: nats.NATS, replicas: int) -> bool:
    try:
        await declare_streams(relay.jetstream(), replicas=replicas)
    except NOT_YET:
        return False
    return True


async def stored(client: nats.NATS, subject: str, message: bytes) -> bool:
    try:
        await client.jetstream().publish(subject, message, timeout=1)
    except NOT_YET:
        return False
    return True


async def connected(nodes: list[Node], user: str) -> nats.NATS:
    async def connects() -> nats.NATS | None:
        try:
            return await nats.connect(
                [node.url(user) for node in nodes],
                inbox_prefix=f"_INBOX_{user}".encode(),
                error_cb=quiet,
            )
        except NOT_YET:
            return None

    client = await eventually(connects, bool)
    assert client is not None
    return client


async def quiet(_error: Exception) -> None:
    """Servers that start, and one that is killed, are the point here, not something to log."""


@pytest.fixture(scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Node]]:
    async with cluster(tmp_path_factory.mktemp("nats")) as started:
        relay = await connected(started, "relay")
        await eventually(lambda: declared(relay, replicas=3), bool)
        await relay.close()
        yield started


async def test_every_stream_is_on_three_servers(nodes: list[Node]) -> None:
    relay = await connected(nodes, "relay")
    for stream in STREAMS:

        async def others(name: str | None = stream.name) -> int:
            info = await relay.jetstream().stream_info(name)
            assert info.config.num_replicas == 3
            return len((info.cluster and info.cluster.replicas) or ())

        await eventually(others, lambda count: count == 2)
    await relay.close()


async def test_a_container_may_say_what_the_permission_table_allows(nodes: list[Node]) -> None:
    trainer = await connected(nodes, "trainer")
    await eventually(lambda: stored(trainer, f"reports.started.{uuid4()}", b"{}"), bool)
    assert not await stored(trainer, f"events.job.completed.v1.{uuid4()}", b"{}")
    await trainer.close()


async def test_keda_finds_every_stream_that_it_scales_by(nodes: list[Node]) -> None:
    triggers = [
        trigger["metadata"]
        for one in of_kind("overlays/large", "ScaledObject").values()
        for trigger in one["spec"]["triggers"]
        if trigger["type"] == "nats-jetstream"
    ]
    assert triggers
    async with aiohttp.ClientSession() as session:

        async def streams(account: str) -> set[str]:
            question = {"acc": account, "consumers": "true", "config": "true"}
            url = f"http://127.0.0.1:{nodes[0].monitor}/jsz"
            async with session.get(url, params=question) as answer:
                accounts = (await answer.json()).get("account_details") or []
            return {
                stream["name"]
                for one in accounts
                if one["name"] == account
                for stream in one["stream_detail"]
            }

        for trigger in triggers:
            stream = trigger["stream"]
            await eventually(
                partial(streams, trigger["account"]), lambda found, stream=stream: stream in found
            )


async def test_what_was_acknowledged_outlives_a_server(nodes: list[Node]) -> None:
    trainer = await connected(nodes, "trainer")
    operator = await connected(nodes[1:], "operator")

    async def reports() -> int | None:
        try:
            return (await operator.jetstream().stream_info("REPORTS")).state.messages
        except NOT_YET:
            return None

    before = await eventually(reports, lambda count: count is not None)
    assert before is not None
    await eventually(lambda: stored(trainer, f"reports.started.{uuid4()}", b"{}"), bool)
    await nodes[0].end(signal.SIGKILL)
    subject = f"reports.started.{uuid4()}"
    await eventually(lambda: stored(trainer, subject, b"{}"), bool)
    await eventually(reports, lambda count: count is not None and count >= before + 2)
    await trainer.close()
    await operator.close()
