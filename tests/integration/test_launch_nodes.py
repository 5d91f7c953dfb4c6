"""One run on two machines, which are two addresses of this one: the trainer's service with real
training, and an agent beside it."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats.errors
import psutil
import pytest
from msgspec.structs import replace

from deploy.local.program import clean_environment
from libs.contracts.scheduler_rpc import LeaseGranted
from libs.contracts.trainer import Checkpointed, Failed, Finished
from tests.support.scripted_platform import ScriptedPlatform, eventually
from tests.support.stack import Nats
from tests.support.training import chats, curve, spec, train, write_rows

JOB: dict[str, Any] = {
    "steps": 40,
    "learning_rate": 2e-3,
    "eval_every": 50,
    "checkpoint_every": 4,
    "batch_size": 16,
}
"""Long enough to be broken off in the middle."""

Curve = list[tuple[int, str, float, float, float]]


class Program:
    """The trainer's service, or an agent."""

    def __init__(self, module: str, folder: Path, **settings: str) -> None:
        self._module = module
        self.log = folder / f"{module}.log"
        self._environment = clean_environment() | {
            f"TUNEYARD_{name.upper()}": value for name, value in settings.items()
        }
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """What both machines see."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(tiny_model, folder / "models" / "tiny-llama")
    write_rows(folder / "chats.jsonl", chats())
    return folder


@pytest.fixture(scope="module")
def agent(folder: Path) -> Iterator[Program]:
    agent = Program(
        "services.trainer.node", folder, work_dir=str(folder / "work"), node_address="127.0.0.2"
    )
    yield agent
    agent.kill()


@pytest.fixture(scope="module")
def trainer(
    folder: Path, nats_server: Nats, platform: ScriptedPlatform, agent: Program
) -> Iterator[Program]:
    trainer = Program(
        "services.trainer",
        folder,
        nats_url=nats_server.url("trainer"),
        trainer_id="trainer-0",
        work_dir=str(folder / "work"),
        models_dir=str(folder / "models"),
        threads="1",
        launcher="torchrun",
        nodes="2",
        processes="1",
        node_address="127.0.0.1",
    )
    yield trainer
    trainer.kill()


async def under_way(platform: ScriptedPlatform, lease: LeaseGranted) -> None:
    """The service, torchrun and its processes import torch, each in turn: on a busy machine that
    takes longer than what a test waits for otherwise."""
    async with asyncio.timeout(240):
        while True:
            with contextlib.suppress(nats.errors.Error):  # nobody has reported anything yet
                if await platform.kinds(lease):
                    return
            await asyncio.sleep(0.05)


async def curve_of(platform: ScriptedPlatform, lease: LeaseGranted) -> Curve:
    points = await platform.metrics(lease)
    return [(p.step, p.phase, p.loss, p.lr, p.grad_norm) for p in points]


@pytest.fixture(scope="module")
async def unbroken(platform: ScriptedPlatform, trainer: Program, folder: Path) -> Curve:
    """The losses of a run on both machines that nothing happens to."""
    lease = await platform.offer((folder / "chats.jsonl").read_bytes(), **JOB)
    await under_way(platform, lease)
    last = (await platform.until(lease, "Finished"))[-1]
    assert isinstance(last, Finished)
    return await curve_of(platform, lease)


async def test_two_machines_give_the_losses_of_one_process(
    unbroken: Curve, folder: Path, tiny_model: Path
) -> None:
    alone = spec(tiny_model, folder / "chats.jsonl", folder / "alone", **JOB)
    assert await asyncio.to_thread(train, alone) == 0
    expected = curve(folder / "alone")
    assert [point[:2] for point in unbroken] == [point[:2] for point in expected]
    for ours, theirs in zip(unbroken, expected, strict=True):
        # Sums in another order, in bf16 where the machine computes in it; as in test_torchrun.
        assert ours[2:4] == pytest.approx(theirs[2:4], rel=2e-2)


async def test_a_run_that_has_lost_a_machine_ends_as_one_that_has_not(
    unbroken: Curve,
    platform: ScriptedPlatform,
    trainer: Program,
    agent: Program,
    folder: Path,
) -> None:
    data = (folder / "chats.jsonl").read_bytes()
    lease = await platform.offer(data, **JOB)
    await under_way(platform, lease)
    await platform.until(lease, "Checkpointed")
    there = agent.processes()
    assert len(there) == 2
    agent.kill()

    reports = await platform.until(lease, "Failed")

    last = reports[-1]
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == ("internal_error", True)
    await eventually(lambda: not any(one.is_running() for one in there))
    kept = next(one for one in reversed(reports) if isinstance(one, Checkpointed)).checkpoint
    begun = await curve_of(platform, lease)

    agent.start()
    again = platform.grant(replace(lease, epoch=2, checkpoint=kept))
    await under_way(platform, again)
    await platform.until(again, "Finished")

    whole = await curve_of(platform, lease)
    went_on = whole[len(begun) :]
    assert [point for point in begun if point[0] <= kept.step] + went_on == unbroken
