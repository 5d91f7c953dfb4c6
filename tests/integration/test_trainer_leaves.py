"""A trainer that is told to leave, or whose run is: its job is handed back, whatever it is at."""

import asyncio
import os
import signal

import pytest

from libs.contracts.trainer import Stopped
from tests.support.scripted_platform import ScriptedPlatform, eventually
from tests.support.stand_in_training import TOKENS_A_STEP
from tests.support.trainer_process import GONE_SECONDS, Trainer


@pytest.fixture
def trainer(trainer_process: Trainer) -> Trainer:
    """A running trainer: the one of the test before, if that has left it alive."""
    trainer_process.start_if_gone()
    return trainer_process


async def leaves(trainer: Trainer) -> None:
    trainer.process.terminate()
    await eventually(trainer.gone, seconds=GONE_SECONDS)
    assert trainer.process.returncode == 0


@pytest.mark.alone  # it has three seconds for that
async def test_a_service_told_to_leave_stores_a_checkpoint_and_hands_the_job_back(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("slow", steps=10_000, checkpoint_every=10_000)
    await platform.until(lease, "Started")
    await leaves(trainer)
    assert await platform.kinds(lease) == ["Started", "Checkpointed", "Stopped"]


async def test_a_run_that_was_stopped_from_outside_hands_the_job_back_with_its_checkpoint(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("slow", steps=10_000, checkpoint_every=10_000)
    await platform.until(lease, "Started")
    (pid,) = trainer.training_pids()
    os.kill(pid, signal.SIGTERM)  # as Kueue has it done, to make room
    await platform.until(lease, "Stopped")
    assert await platform.kinds(lease) == ["Started", "Checkpointed", "Stopped"]


async def test_an_idle_service_leaves_at_once(platform: ScriptedPlatform, trainer: Trainer) -> None:
    before = platform.asked
    await eventually(lambda: platform.asked > before + 1)
    await leaves(trainer)


async def test_a_service_that_has_to_leave_in_the_middle_of_a_long_step_hands_the_job_back(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("deaf", steps=10_000, checkpoint_every=1)
    await platform.until(lease, "Checkpointed")
    await leaves(trainer)
    kinds = await platform.kinds(lease)
    assert (kinds[0], kinds[1], kinds.count("Stopped")) == ("Started", "Checkpointed", 1)


async def test_a_run_that_is_ended_before_it_can_say_a_word_hands_the_job_back(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("brittle", steps=10_000, checkpoint_every=2)
    await platform.until(lease, "Checkpointed")
    (pid,) = trainer.training_pids()
    os.kill(pid, signal.SIGTERM)
    last = (await platform.until(lease, "Stopped"))[-1]
    assert isinstance(last, Stopped)
    assert last.tokens_processed >= 2 * TOKENS_A_STEP


async def test_a_job_that_is_granted_to_a_service_that_leaves_is_handed_back_at_once(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    before, said = platform.asked, trainer.log.stat().st_size
    platform.hold = asyncio.Event()
    await eventually(lambda: platform.asked > before)
    lease = await platform.offer("finish")
    trainer.process.terminate()
    await eventually(lambda: "told to leave" in trainer.log.read_text()[said:])
    platform.hold.set()
    platform.hold = None
    await eventually(trainer.gone, seconds=GONE_SECONDS)
    assert await platform.kinds(lease) == ["Stopped"]
