"""The supervisor, with real processes that sleep, fail, or refuse to end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local.program import Program, StackError, wheel_executable
from deploy.local.supervisor import (
    FIRST_DELAY_SECONDS,
    LONGEST_DELAY_SECONDS,
    MARK,
    STEADY_SECONDS,
    Supervisor,
    delay_before_restart,
    end_stale,
)

PATIENCE_SECONDS = 60.0
SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('deaf', flush=True); time.sleep(600)",
)
WITH_A_CHILD = (
    sys.executable,
    "-c",
    "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"
    "time.sleep(600)",
)
SUPERVISING = """
import asyncio, sys
from pathlib import Path
from deploy.local.program import Program
from deploy.local.supervisor import Supervisor

async def main():
    await Supervisor(Path(sys.argv[1]), print).start(Program(name="it", argv=("sleep", "600")))
    await asyncio.sleep(600)

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 (processes cannot set our Event)
            await asyncio.sleep(0.02)


def pid_in(file: Path) -> int:
    return int(file.read_text())


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
async def supervisor(tmp_path: Path, told: list[str]) -> AsyncIterator[Supervisor]:
    one = Supervisor(tmp_path, told.append)
    yield one
    await one.stop_all(within_seconds=0.5)


async def test_a_killed_program_is_started_again_under_a_new_pid(
    supervisor: Supervisor, told: list[str]
) -> None:
    await supervisor.start(Program(name="it", argv=SLEEP))
    first = pid_in(supervisor.pid_file("it"))

    os.kill(first, signal.SIGKILL)

    await eventually(lambda: bool(told))
    await eventually(lambda: supervisor.pid_file("it").exists())
    assert alive(pid_in(supervisor.pid_file("it")))
    assert pid_in(supervisor.pid_file("it")) != first
    assert told == ["it ended (killed by SIGKILL); starting again in 0.2 s"]


async def test_a_program_that_fails_at_its_start_is_tried_ever_more_slowly(
    supervisor: Supervisor, told: list[str]
) -> None:
    await supervisor.start(Program(name="it", argv=("false",)))

    await eventually(lambda: len(told) == 3)

    waits = [line.split(" in ")[1] for line in told]
    assert waits == ["0.2 s", "0.4 s", "0.8 s"]


def test_the_wait_doubles_up_to_a_limit_and_begins_anew_after_a_steady_life() -> None:
    delay = 0.0
    for _ in range(20):
        delay = delay_before_restart(delay, lived_seconds=0.1)
    assert delay == LONGEST_DELAY_SECONDS
    assert delay_before_restart(delay, lived_seconds=STEADY_SECONDS) == FIRST_DELAY_SECONDS


async def test_a_program_that_ignores_the_request_to_end_is_killed_when_time_is_up(
    supervisor: Supervisor,
) -> None:
    await supervisor.start(Program(name="it", argv=STUBBORN))
    pid = pid_in(supervisor.pid_file("it"))
    await eventually(lambda: "deaf" in supervisor.log_file("it").read_text())

    began = time.monotonic()
    await supervisor.stop_all(within_seconds=0.5)

    assert 0.5 <= time.monotonic() - began < PATIENCE_SECONDS  # and not until it ends by itself
    assert not alive(pid)


async def test_stopping_leaves_no_process_and_no_pid_file(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        await supervisor.start(Program(name=name, argv=SLEEP))
    pids = [pid_in(supervisor.pid_file(name)) for name in ("one", "two")]

    await supervisor.stop_all(within_seconds=PATIENCE_SECONDS)

    assert not any(alive(pid) for pid in pids)
    assert list((tmp_path / "run").iterdir()) == []


async def test_stopping_reaches_a_program_that_waits_to_be_started_again(
    supervisor: Supervisor, told: list[str]
) -> None:
    await supervisor.start(Program(name="it", argv=("false",)))
    await eventually(lambda: bool(told))

    await supervisor.stop_all(within_seconds=PATIENCE_SECONDS)
    await asyncio.sleep(2 * FIRST_DELAY_SECONDS)

    assert not supervisor.pid_file("it").exists()
    assert len(told) == 1


async def test_a_program_is_asked_to_end_by_its_own_signal(supervisor: Supervisor) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(print('interrupted')))\n"
        "print('listens', flush=True); time.sleep(600)"
    )
    await supervisor.start(
        Program(name="it", argv=(sys.executable, "-c", script), stop_signal=signal.SIGINT)
    )
    await eventually(lambda: "listens" in supervisor.log_file("it").read_text())

    await supervisor.stop_all(within_seconds=PATIENCE_SECONDS)

    assert "interrupted" in supervisor.log_file("it").read_text()


async def test_what_a_killed_program_had_started_ends_with_it(supervisor: Supervisor) -> None:
    await supervisor.start(Program(name="it", argv=WITH_A_CHILD))
    await eventually(lambda: "\n" in supervisor.log_file("it").read_text())
    child = int(supervisor.log_file("it").read_text())
    assert alive(child)

    os.kill(pid_in(supervisor.pid_file("it")), signal.SIGKILL)

    await eventually(lambda: not alive(child))


async def test_no_secret_of_the_supervisor_reaches_a_program(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEYARD_KEY_PEPPER", "secret")
    monkeypatch.setenv("ORDINARY", "kept")

    await supervisor.run(Program(name="it", argv=("env",), env={"TUNEYARD_NATS_URL": "its own"}))

    printed = supervisor.log_file("it").read_text()
    assert "TUNEYARD_NATS_URL=its own" in printed
    assert "ORDINARY=kept" in printed
    assert "PEPPER" not in printed


async def test_a_program_that_does_not_exist_is_one_sentence(supervisor: Supervisor) -> None:
    with pytest.raises(StackError, match=r"^it cannot be started: /no-such-program is missing\.$"):
        await supervisor.start(Program(name="it", argv=("/no-such-program",)))


def test_a_missing_server_says_how_to_install_it() -> None:
    with pytest.raises(StackError, match=r"no-such-server is missing: install .+ `uv sync`"):
        wheel_executable("no-such-server")


async def test_a_run_that_fails_names_its_log(supervisor: Supervisor) -> None:
    with pytest.raises(StackError, match=r"it failed \(exit status 1\); its log is .+/it.log"):
        await supervisor.run(Program(name="it", argv=("false",)))


@pytest.fixture
def outsider() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that no supervisor here knows; they end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            argv,
            env=os.environ | env,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def test_a_supervisor_killed_with_9_takes_its_programs_with_it(
    tmp_path: Path, outsider: Callable[..., subprocess.Popen[str]]
) -> None:
    supervising = outsider(sys.executable, "-c", SUPERVISING, str(tmp_path))
    pid_file = tmp_path / "run" / "it.pid"
    await eventually(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    pid = pid_in(pid_file)
    await eventually(lambda: psutil.Process(pid).name() == "sleep")

    supervising.kill()
    supervising.wait()

    await eventually(lambda: not alive(pid))


async def test_what_an_earlier_supervisor_left_running_is_ended(
    tmp_path: Path, outsider: Callable[..., subprocess.Popen[str]]
) -> None:
    left = outsider(*STUBBORN, **{MARK: str(tmp_path)})
    assert left.stdout is not None
    assert left.stdout.readline() == "deaf\n"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "it.pid").write_text(f"{left.pid}\n")
    told: list[str] = []

    await end_stale(tmp_path, told.append)

    assert not alive(left.pid)
    assert told == [f"ending it (process {left.pid}) of an earlier run"]


async def test_a_stranger_whose_pid_stands_in_a_pid_file_is_left_alone(
    tmp_path: Path, outsider: Callable[..., subprocess.Popen[str]]
) -> None:
    stranger = outsider("sleep", "600")
    (tmp_path / "run").mkdir()
    pid_file = tmp_path / "run" / "gateway.pid"
    pid_file.write_text(f"{stranger.pid}\n")

    await end_stale(tmp_path, print)

    assert alive(stranger.pid)
    assert not pid_file.exists()
