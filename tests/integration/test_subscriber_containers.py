"""A subscriber of an installation in containers: let in by a file, taken up without a restart."""

import asyncio
import os
import signal
from pathlib import Path
from uuid import uuid4

import msgspec
import nats.errors
import pytest

from deploy import subscribers as commands
from deploy.containers import let_subscribe, nats_variable
from deploy.local import nats as server
from deploy.local.program import StackError, free_port, wheel_executable
from deploy.local.subscribers import make_place
from libs.bus.streams import declare_streams, event_subject
from libs.contracts.scheduler import JobReclaimed
from libs.subscriber import Subscriber
from tests.support.jobs import envelope
from tests.support.nats_cluster import PASSWORDS, configured
from tests.support.subscribers import connected
from tests.support.waiting import eventually, patient


async def test_the_server_takes_up_whom_the_file_names_and_disturbs_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    main = configured(tmp_path / "nats", client=port, routes=free_port(), monitor=free_port())
    process = await asyncio.create_subprocess_exec(
        *(wheel_executable("nats-server"), "-c", str(main.with_name("nats.conf"))),
        env={nats_variable(user): password for user, password in PASSWORDS.items()}
        | {"SERVER_NAME": "tuneyard"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    operator_url = server.url(user=server.OPERATOR, password=PASSWORDS[server.OPERATOR], port=port)
    try:
        assert await eventually(lambda: server.answers(operator_url), bool)
        async with connected(operator_url) as operator:
            jetstream = patient(operator.connection)
            await declare_streams(jetstream)
            file = main.with_name("subscribers.conf")
            await commands.create("ada", file=file, server=f"127.0.0.1:{port}")
            url = capsys.readouterr().out.strip()
            os.kill(process.pid, signal.SIGHUP)
            await make_place(operator_url, "sub-ada", ("job.reclaimed.v1",))
            await eventually(lambda: lets_in(url), bool)

            sent = envelope(uuid4(), uuid4(), JobReclaimed(epoch=1, reason="lost", retries=1))
            await jetstream.publish(
                event_subject(sent.type, sent.job_id), msgspec.json.encode(sent)
            )
            async with asyncio.timeout(90), Subscriber(url) as events:
                assert (await anext(events)).envelope == sent
            assert operator.connection.is_connected
            assert operator.refusals == []
    finally:
        process.kill()
        await process.wait()


async def lets_in(url: str) -> bool:
    try:
        async with connected(url):
            return True
    except (OSError, nats.errors.Error):
        return False


def test_subscribers_are_added_one_after_another_and_none_twice(tmp_path: Path) -> None:
    file = tmp_path / "subscribers.conf"
    let_subscribe(file, "sub-ada", "a")
    identity = file.stat().st_ino
    assert file.stat().st_mode & 0o777 == 0o600, "it holds passwords"
    file.chmod(0o644)  # as for a container, in a private folder
    let_subscribe(file, "sub-bob", "b")
    text = file.read_text()

    with pytest.raises(StackError, match="has sub-ada already"):
        let_subscribe(file, "sub-ada", "c")
    assert file.read_text() == text
    assert text.count('user: "sub-') == 2
    assert file.stat().st_mode & 0o777 == 0o644
    assert file.stat().st_ino == identity, "a container has this file mounted, and no other"


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "compose.env"
    file.write_text("POSTGRES_PASSWORD=mine\n")
    with pytest.raises(StackError, match=r"subscribers\.conf"):
        let_subscribe(file, "sub-ada", "a")
    assert file.read_text() == "POSTGRES_PASSWORD=mine\n"
