"""Runs of several processes of one machine, as the trainer's service supervises them."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil

from libs.contracts.training import TrainSpec
from services.trainer import checkpoint
from services.trainer.launch_forked import ForkServerLauncher
from services.trainer.launch_torchrun import TorchrunLauncher
from tests.support.scripted_platform import eventually
from tests.support.training import (
    chats,
    contract_spec,
    grow_spec,
    spec,
    status,
    steps_done,
    wait_until,
    write_rows,
)

STAND_IN = "tests.support.stand_in_group"
IMPORTS = 240  # seconds, on a busy machine; torchrun imports torch, and then each process does
ALONE = ForkServerLauncher(f"{STAND_IN}:alone", STAND_IN)


def of_two(module: str = STAND_IN) -> TorchrunLauncher:
    return TorchrunLauncher(processes=2, alone=ALONE, module=module)


def told(script: str, folder: Path) -> TrainSpec:
    (folder / "script").write_text(script)
    return spec(folder / "no-model", folder / "script", folder / "out")


def processes_of(run: Path) -> set[int]:
    """Whoever has the run's spec on its command line: torchrun, and what it has started."""
    return {
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(run / "spec.json") in (process.info["cmdline"] or ())
    }


def both_are_there(run: Path) -> bool:
    return {"rank-0", "rank-1"} <= {path.name for path in (run / "out").glob("rank-*")}


async def test_a_run_of_two_that_is_asked_to_stop_keeps_a_checkpoint_and_leaves_no_process(
    tiny_model: Path, tmp_path: Path
) -> None:
    dataset = write_rows(tmp_path / "chats.jsonl", chats())
    job = grow_spec(tiny_model, dataset, tmp_path / "out", checkpoint_every=1000)
    training = await of_two("services.trainer.train").launch(job, tmp_path / "output.txt")
    await eventually(lambda: steps_done(tmp_path / "out") >= 3, seconds=IMPORTS)
    assert len(processes_of(tmp_path)) == 3

    training.ask_to_stop()
    await training.ended()

    assert processes_of(tmp_path) == set()
    assert status(tmp_path / "out").outcome == "stopped"
    (kept,) = checkpoint.complete(tmp_path / "out" / "checkpoints")
    assert kept.name == f"step-{steps_done(tmp_path / 'out')}"


async def test_processes_that_hear_nothing_are_killed_with_the_run(tmp_path: Path) -> None:
    training = await of_two().launch(told("deaf", tmp_path), tmp_path / "output.txt")
    await eventually(lambda: both_are_there(tmp_path), seconds=IMPORTS)
    assert (tmp_path / "out" / "rank-1").read_text() == "2 1", "of two, with its share of threads"
    training.kill()
    assert await training.ended() == -signal.SIGKILL
    await eventually(lambda: not processes_of(tmp_path), seconds=60)


async def test_a_run_ends_as_its_first_process_did_and_takes_the_others_along(
    tmp_path: Path,
) -> None:
    training = await of_two().launch(told("die", tmp_path), tmp_path / "output.txt")
    assert await training.ended() == -signal.SIGKILL
    said = (tmp_path / "output.txt").read_text()
    assert processes_of(tmp_path) == set()
    assert "the ground opened" in said
    assert "process 1 of the run ended with status -9" in said


SERVICE = """
import asyncio, sys
from pathlib import Path
import msgspec
from libs.contracts.training import TrainSpec
from services.trainer.launch_forked import ForkServerLauncher
from services.trainer.launch_torchrun import TorchrunLauncher

async def main():
    output, module = Path(sys.argv[1]), sys.argv[2]
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=TrainSpec)
    alone = ForkServerLauncher("none:none", "none")
    await TorchrunLauncher(processes=2, alone=alone, module=module).launch(spec, output)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_no_process_survives_a_service_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVICE, str(tmp_path / "output.txt"), STAND_IN]
    service = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert service.stdin is not None
    service.stdin.write(msgspec.json.encode(told("deaf", tmp_path)))
    service.stdin.close()
    try:
        wait_until(lambda: both_are_there(tmp_path), seconds=IMPORTS)
    finally:
        service.kill()
        service.wait()
    wait_until(lambda: not processes_of(tmp_path), seconds=60)


async def test_what_is_one_processs_work_is_launched_as_such(tmp_path: Path) -> None:
    job = contract_spec(tmp_path / "no-model", tmp_path / "out")
    training = await of_two().launch(job, tmp_path / "output.txt")
    assert await training.ended() == 0
    assert (tmp_path / "out.alone").exists()
