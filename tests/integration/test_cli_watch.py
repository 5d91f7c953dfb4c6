"""``watch``: a live screen in a terminal, plain lines in a pipe, and an outcome for scripts."""

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

from tests.support.command import COMMAND, Command
from tests.support.failing_http import failing_server, refuses
from tests.support.scripted_job import JOB_ID, ScriptedJob, story
from tests.support.terminal import terminal

FAILURE = {"code": "out_of_memory", "message": "The device has too little memory."}
COLOUR = re.compile(rb"\x1b\[[0-9;]*3[1-7]m")
WATCH = (*COMMAND, "watch", JOB_ID)


@pytest.mark.parametrize(
    ("end", "code", "changes"),
    [
        ("completed", 0, {"charge_cents": 26}),
        ("failed", 6, {"error": FAILURE}),
        ("cancelled", 7, {"charge_cents": 3}),
    ],
)
async def test_the_exit_code_is_the_jobs_outcome(
    tmp_path: Path, end: str, code: int, changes: dict[str, object]
) -> None:
    async with failing_server(ScriptedJob(story(end, **changes))) as server:
        cli = Command(tmp_path, server.url, "k")
        lines = (await cli("watch", JOB_ID, code=code)).out
        events = (await cli("watch", JOB_ID, "--json", code=code)).out.splitlines()

    assert f"job {JOB_ID} {end}" in lines
    assert ("out_of_memory: The device" in lines) == (end == "failed")
    assert ("perplexity" in lines) == (end == "completed")
    told = [json.loads(line) for line in events]
    assert [each["event"] for each in told] == [name for name, _ in story()]
    assert told[-1]["data"]["data"]["status"] == end


async def test_in_a_pipe_there_are_lines_without_colour_that_nothing_draws_over(
    tmp_path: Path,
) -> None:
    async with failing_server(ScriptedJob(story(), pieces=[4], away=1)) as server:
        done = await Command(tmp_path, server.url, "k")("watch", JOB_ID)

    lines = done.out.splitlines()
    assert lines[:4] == [
        "12:00:00 queued",
        "12:00:00 running",
        "12:00:00 step 20/60",
        "12:00:00 half of it \\x1b[2J is done",
    ]
    assert "\x1b" not in done.out + done.err
    assert "the platform does not answer; trying again" in done.err


async def test_a_terminal_shows_the_bar_the_time_the_curve_and_the_last_lines(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    async with failing_server(ScriptedJob(story(), pieces=[5], gate=gate)) as server:
        environ = Command(tmp_path, server.url, "k").environ()
        async with terminal(WATCH, environ) as shown:
            live = await shown.until(  # both are there only when all is drawn
                lambda text: "step 30/60" in text and "step 20/60" in text, "half of the job"
            )
            assert "running (train)  contract of tiny" in live
            assert "loss 2.5  1,000 tok/s" in live
            assert "loss (o: held-out data)" in live
            gate.set()
            assert await shown.end() == 0

    print(live, shown.text, sep="\n")
    assert "step 60/60" in shown.text
    assert f"job {JOB_ID} completed" in shown.text
    assert f"tuneyard download {JOB_ID}" in shown.text
    # A line of the job's would have emptied the screen.
    assert "half of it \\x1b[2J is done" in shown.text
    assert shown.clears() == 0


async def test_it_says_that_the_platform_is_away_and_goes_on_where_it_was(tmp_path: Path) -> None:
    back = asyncio.Event()
    script = ScriptedJob(story(), pieces=[3, 2], away=2, back=back)
    async with (
        failing_server(script) as server,
        terminal(WATCH, Command(tmp_path, server.url, "k").environ()) as shown,
    ):
        away = await shown.until(lambda text: "does not answer" in text, "the notice")
        back.set()
        assert await shown.end() == 0

    print(away)
    assert "trying again in" in away
    assert "does not answer" not in shown.text
    assert "step 60/60" in shown.text
    assert shown.clears() == 0
    streams = [asked for asked in server.asked if asked.path.endswith("/stream")]
    behind = [asked.headers.get("last-event-id") for asked in streams]
    assert behind[0] is None
    assert behind[1:] == sorted(behind[1:], key=lambda one: int(one or 0))
    assert set(behind[1:]) == {"3", "5"}


@pytest.mark.parametrize("where", ["terminal", "pipe"])
async def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(
    tmp_path: Path, where: str
) -> None:
    script = ScriptedJob(story(), pieces=[5], gate=asyncio.Event())
    async with failing_server(script) as server:
        cli = Command(tmp_path, server.url, "k")
        if where == "terminal":
            async with terminal(WATCH, cli.environ()) as shown:
                await shown.until(lambda text: "step 30/60" in text, "half of the job")
                shown.type("\x03")
                code = await shown.end()
            said, drawn = shown.text, shown.written
        else:
            process = await cli.start("watch", JOB_ID)
            assert process.stdout is not None
            async with asyncio.timeout(180):
                while b"step 20" not in await process.stdout.readline():
                    pass
            process.send_signal(signal.SIGINT)
            _, error = await process.communicate()
            code, said, drawn = process.returncode or 0, error.decode(), error

    assert code == 130
    assert f"The job goes on. To come back: tuneyard watch {JOB_ID}" in said
    assert b"Traceback" not in drawn
    assert [asked.method for asked in server.asked if asked.method != "GET"] == []


async def test_colour_is_for_a_terminal_that_wants_it(tmp_path: Path) -> None:
    seen = []
    for environ in ({}, {"NO_COLOR": "1"}):
        async with (
            failing_server(ScriptedJob(story())) as server,
            terminal(WATCH, Command(tmp_path, server.url, "k").environ(**environ)) as shown,
        ):
            assert await shown.end() == 0
        seen.append(COLOUR.search(shown.written) is not None)

    assert seen == [True, False]


async def test_a_job_that_is_not_there_gets_no_screen(tmp_path: Path) -> None:
    async with (
        failing_server(lambda _: refuses("404 Not Found", "not_found")) as server,
        terminal(WATCH, Command(tmp_path, server.url, "k").environ()) as shown,
    ):
        assert await shown.end() == 4

    assert shown.text.splitlines()[0] == "error: it is not_found"


async def test_logs_go_on_until_the_end_and_events_of_other_kinds_are_left_out(
    tmp_path: Path,
) -> None:
    async with failing_server(ScriptedJob(story(), pieces=[4])) as server:
        cli = Command(tmp_path, server.url, "k")
        lines = (await cli("logs", JOB_ID, "--follow")).out.splitlines()
        newer = (await cli("logs", JOB_ID, "-f", "--since", "1", "--json")).out.splitlines()

    assert lines == ["12:00:00 step 20/60", "12:00:00 half of it \\x1b[2J is done"]
    assert [json.loads(each)["seq"] for each in newer] == [2]
