"""``webhooks listen``: an account's events, signed, at a server on this machine."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import standardwebhooks

from tests.support.command import Command
from tests.support.failing_http import Answer, Asked, Server, failing_server, says
from tests.support.scripted_job import JOB_ID, ScriptedJob, story
from tuneyard import webhooks

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HELD = Answer(then="silence")


def account(pieces: list[int]) -> ScriptedJob:
    """An account's stream has no end."""
    return ScriptedJob(story(), pieces=[*pieces, len(story())], gate=asyncio.Event())


@pytest.fixture
async def target() -> AsyncIterator[Server]:
    """A user's own server, which fails once."""
    answers = iter([says({}, "500 Internal Server Error")])
    async with failing_server(lambda _: next(answers, says({}))) as server:
        yield server


async def lines_of(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(180):
        return [(await process.stdout.readline()).decode() for _ in range(count)]


async def stopped(process: asyncio.subprocess.Process) -> str:
    process.send_signal(signal.SIGINT)
    _, error = await process.communicate()
    assert process.returncode == 130
    return error.decode()


def genuine(asked: Asked) -> str:
    """The type of what was posted, if the standard's own library and the SDK take it."""
    payload = standardwebhooks.Webhook(SECRET).verify(asked.body, asked.headers)
    event = webhooks.unwrap(asked.body, asked.headers, SECRET)
    assert event.job is not None
    assert event.type == payload["type"]
    return event.type


async def test_every_change_of_a_job_is_posted_signed_once_also_over_a_break(
    tmp_path: Path, target: Server
) -> None:
    async with failing_server(account([2])) as platform:
        command = Command(tmp_path, platform.url, "k")
        arguments = ("webhooks", "listen", "--forward-to", f"{target.url}/hook?a=b")
        process = await command.start(*arguments, "--secret", SECRET, "--json")
        told = [json.loads(line) for line in await lines_of(process, 3)]
        await stopped(process)

    assert [genuine(asked) for asked in target.asked] == [
        "job.queued",
        "job.running",
        "job.completed",
    ]
    assert {asked.path for asked in target.asked} == {"/hook?a=b"}
    assert [each["status"] for each in told] == [500, 200, 200]
    assert [each["event_id"] for each in told] == [
        asked.headers["webhook-id"] for asked in target.asked
    ]
    assert len({each["event_id"] for each in told}) == 3
    assert {each["job_id"] for each in told} == {JOB_ID}
    assert "types=state" in platform.asked[0].path


async def test_only_what_was_asked_for_and_where_it_ended_is_said(
    tmp_path: Path, target: Server
) -> None:
    async with failing_server(account([])) as platform:
        command = Command(tmp_path, platform.url, "k")
        arguments = ("webhooks", "listen", "--forward-to", target.url)
        process = await command.start(*arguments, "--types", "job.running,job.completed")
        lines = await lines_of(process, 2)
        said = await stopped(process)
        again = await command.start(*arguments, "--after", "8")
        async with asyncio.timeout(180):
            while platform.asked[-1].headers.get("last-event-id") != "8":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await stopped(again)

    assert [line.split()[1] for line in lines] == ["job.running", "job.completed"]
    assert lines[0].split()[-3:] == ["500", "(" + lines[0].split("(")[1].split()[0], "ms)"]
    assert "signed with whsec_" in said
    assert "--after 8" in said
    assert len(target.asked) == 2


async def test_a_server_that_is_not_there_is_told_and_does_not_end_it(tmp_path: Path) -> None:
    async with failing_server(account([])) as platform:
        command = Command(tmp_path, platform.url, "k")
        process = await command.start(
            "webhooks", "listen", "--forward-to", "http://127.0.0.1:1/hook", "--json"
        )
        told = [json.loads(line) for line in await lines_of(process, 3)]
        await stopped(process)

    assert {each["status"] for each in told} == {None}
    assert all("refused" in each["error"] for each in told)


async def test_what_is_no_address_or_no_secret_is_refused_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    async with failing_server(account([])) as platform:
        command = Command(tmp_path, platform.url, "k")
        await command("webhooks", "listen", "--forward-to", "localhost:3000", code=2)
        forward = ("webhooks", "listen", "--forward-to", "http://127.0.0.1:1")
        await command(*forward, "--types", "job.eaten", code=2)
        await command(*forward, "--secret", "hunter2!", code=2)

    assert platform.asked == []
