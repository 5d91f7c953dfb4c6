"""A machine of a run that falls silent, seen from the other: a trainer without its agent, an agent
without its trainer. The clock that tells it is moved."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from services.trainer.launch_forked import ForkServerLauncher
from services.trainer.launch_nodes import LOST, NodesLauncher
from services.trainer.node import Agent
from services.trainer.nodes import LOST_SECONDS, Call, Here, calls_of
from tests.integration.test_launch_torchrun import STAND_IN, processes_of, told
from tests.support.scripted_platform import eventually

ADDRESS = "127.0.0.2"
PATIENCE = 120.0  # seconds
BEAT_SECONDS = 0.3  # longer than anybody looks away


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder of the other machine."""
    folder = calls_of(tmp_path) / ADDRESS
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
async def agent(tmp_path: Path, clock: Clock) -> AsyncIterator[None]:
    leaving = asyncio.Event()
    running = asyncio.create_task(Agent(tmp_path, ADDRESS, clock, STAND_IN).run(leaving))
    yield
    leaving.set()
    await running


def call(folder: Path, beat: int) -> Call:
    spec = folder / "spec.json"
    spec.write_bytes(msgspec.json.encode(told("deaf", folder)))
    return Call(
        beat=beat,
        launch="one",
        rank=1,
        nodes=2,
        endpoint="127.0.0.1:9",
        spec=str(spec),
        processes=1,
    )


async def beating(
    file: Path, message: Callable[[int], Call | Here], seen: Callable[[], Any]
) -> None:
    """Beat on until it has been seen: the first of two beats may not have been looked at yet."""
    beat = 2
    async with asyncio.timeout(PATIENCE):
        while not seen():
            unfinished = file.with_suffix(".unfinished")
            unfinished.write_bytes(msgspec.json.encode(message(beat)))
            unfinished.rename(file)
            beat += 1
            await asyncio.sleep(BEAT_SECONDS)


@pytest.mark.parametrize("writable", [True, False], ids=["", "where it can, not here"])
async def test_a_run_whose_machine_is_silent_ends_and_says_so(
    writable: bool, tmp_path: Path, there: Path, clock: Clock
) -> None:
    launcher = NodesLauncher(
        nodes=2,
        processes=1,
        address="127.0.0.1",
        work_dir=tmp_path,
        alone=ForkServerLauncher("none:none", "none"),
        monotonic=clock,
        new_id=lambda: UUID(int=1),
        module=STAND_IN,
    )
    output = tmp_path / "output.txt"
    (there / "here.json").write_bytes(msgspec.json.encode(Here(beat=1)))
    ready = asyncio.create_task(launcher.ready())
    await asyncio.sleep(0.5)
    assert not ready.done(), "an old file is no agent"
    await beating(there / "here.json", lambda beat: Here(beat=beat), ready.done)
    await ready
    training = await launcher.launch(told("deaf", tmp_path), output)
    await eventually(lambda: (there / "call.json").exists() and processes_of(tmp_path))
    await eventually(output.exists)
    if not writable:
        output.unlink()
        output.mkdir()
    clock.now += LOST_SECONDS + 1
    async with asyncio.timeout(PATIENCE):
        assert await training.ended() == LOST
    assert processes_of(tmp_path) == set()
    assert not writable or "node 127.0.0.2 is silent" in output.read_text()
    assert not (there / "call.json").exists()


async def test_an_agent_whose_trainer_is_silent_ends_what_it_was_called_for(
    tmp_path: Path, there: Path, clock: Clock, agent: None
) -> None:
    (there / "call.json").write_bytes(msgspec.json.encode(call(tmp_path, 1)))
    await asyncio.sleep(0.5)
    assert not processes_of(tmp_path), "an old call is none"
    await beating(there / "call.json", partial(call, tmp_path), lambda: processes_of(tmp_path))
    clock.now += LOST_SECONDS + 1
    await eventually(lambda: not processes_of(tmp_path))


async def test_an_agent_ends_what_is_not_called_for_any_more(
    tmp_path: Path, there: Path, clock: Clock, agent: None
) -> None:
    await beating(there / "call.json", partial(call, tmp_path), lambda: processes_of(tmp_path))
    (there / "call.json").unlink()
    await eventually(lambda: not processes_of(tmp_path))
    here = there / "here.json"
    await eventually(lambda: msgspec.json.decode(here.read_bytes(), type=Here).is_free)


async def test_an_agent_leaves_while_the_file_system_hangs(
    tmp_path: Path, there: Path, clock: Clock
) -> None:
    os.mkfifo(there / "call.json")  # who opens it waits until somebody writes
    leaving = asyncio.Event()
    running = asyncio.create_task(Agent(tmp_path, ADDRESS, clock, STAND_IN).run(leaving))
    await asyncio.sleep(0.5)
    leaving.set()
    try:
        async with asyncio.timeout(PATIENCE):
            await running
    finally:  # the thread that waits
        os.close(os.open(there / "call.json", os.O_WRONLY | os.O_NONBLOCK))
