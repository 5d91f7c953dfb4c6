"""A subscriber of a NATS in TLS: let in by a file, and sure of whom it tells its password."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from deploy import subscribers as commands
from deploy.local.program import StackError
from deploy.local.subscribers import make_place
from libs.bus.broker import make_broker
from libs.bus.streams import declare_streams, event_subject
from libs.contracts.base import Envelope
from libs.contracts.scheduler import JobReclaimed
from libs.subscriber import Subscriber
from tests.integration.test_nats_cluster_tls import monitored
from tests.support.certificates import authority, issue
from tests.support.jobs import envelope
from tests.support.nats_cluster import Node, single
from tests.support.waiting import PATIENCE, eventually, patient


async def test_it_says_nothing_to_a_server_of_another_ca_until_it_is_told_of_that_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ours = authority()
    place, told = issue(tmp_path / "certificates", ours), tmp_path / "ca.crt"
    told.write_bytes(authority().pem)
    async with single(tmp_path / "nats", place) as node:
        broker = make_broker(node.url("operator"), place / "ca.crt")
        jetstream = patient(await broker.connect())
        await declare_streams(jetstream)
        file = node.config.with_name("subscribers.conf")
        capsys.readouterr()
        await commands.create("ada", file=file, server=f"localhost:{node.port}", tls=True)
        url = capsys.readouterr().out.strip()
        assert url.startswith("tls://sub-ada:")
        os.kill(node.running.pid, signal.SIGHUP)
        with pytest.raises(StackError, match="give the file of the CA that signs it"):
            await make_place(node.url("operator"), "sub-ada", (), ca=told)
        await make_place(node.url("operator"), "sub-ada", (), ca=place / "ca.crt")
        sent = envelope(uuid4(), uuid4(), JobReclaimed(epoch=1, reason="lost", retries=1))
        await jetstream.publish(event_subject(sent.type, sent.job_id), msgspec.json.encode(sent))

        async def advised() -> bool:
            return "give the file of the CA that signs it" in caplog.text

        reading = asyncio.create_task(first_of(url, told))
        try:
            await eventually(advised, bool)
            assert not reading.done()
            assert "sub-ada" not in await users_at(node)
            told.write_bytes(ours.pem)
            async with asyncio.timeout(PATIENCE):
                assert await reading == sent
        finally:
            reading.cancel()
            await broker.stop()


async def users_at(node: Node) -> set[str]:
    connections: Any = (await monitored(node, "connz?auth=1"))["connections"]
    users = {one.get("authorized_user", "") for one in connections}
    assert "operator" in users
    return users


async def first_of(url: str, ca: Path) -> Envelope:
    async with Subscriber(url, ca=ca) as events:
        return (await anext(events)).envelope
