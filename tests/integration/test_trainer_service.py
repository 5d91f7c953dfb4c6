"""The trainer service as a process, with real NATS and S3, on training that is quick."""

import asyncio
import hashlib
import io
import os
import signal
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from msgspec.structs import replace

from deploy.local.s3 import S3Settings
from libs.contracts.base import ModelSource
from libs.contracts.scheduler import Checkpoint
from libs.contracts.trainer import Checkpointed, Failed, Finished, Started, Stopped
from services.trainer.archive import pack
from services.trainer.telemetry import LINES_PER_ATTEMPT
from tests.support.scripted_platform import ScriptedPlatform, eventually
from tests.support.stack import Nats, Servers, chosen
from tests.support.stand_in_training import TOKENS_A_STEP
from tests.support.trainer_process import Trainer
from tests.support.waiting import once_of_several


@pytest.fixture(scope="module")
async def own_servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    """NATS and S3 of this module's own, in place of all tests': its tests kill them."""
    servers = Servers(tmp_path_factory.mktemp("servers"), chosen(os.environ))
    yield servers
    await servers.stop()


@pytest.fixture(scope="module")
async def nats_server(own_servers: Servers) -> Nats:
    return await own_servers.nats()


@pytest.fixture(scope="module")
async def s3(own_servers: Servers) -> S3Settings:
    return await own_servers.s3()


@pytest.fixture
def trainer(trainer_process: Trainer) -> Trainer:
    """A running trainer: the one of the test before, if that has left it alive."""
    trainer_process.start_if_gone()
    return trainer_process


async def test_an_attempt_is_reported_in_order_with_every_step_and_file(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("finish", steps=25)

    reports = await platform.until(lease, "Finished")

    first, *between, last = reports
    assert isinstance(first, Started)
    assert (first.device, first.steps_total, first.resumed_from_step) == ("cpu", 25, 0)
    assert all(isinstance(report, Checkpointed) for report in between)
    assert isinstance(last, Finished)
    assert last.result.steps == 25
    assert [(file.name, file.role) for file in last.files] == [
        ("artifacts.tar.gz", "archive"),
        ("README.md", "metadata"),
        ("adapter_config.json", "config"),
        ("adapter_model.safetensors", "adapter"),
        ("tokenizer.json", "tokenizer"),
        ("result.json", "metadata"),
    ]
    for file in last.files:
        assert await platform.store.size(file.key) == file.size_bytes
        assert await platform.store.sha256(file.key) == file.sha256
    # Finished is only said when all telemetry stands.
    assert [point.step for point in await platform.metrics(lease)] == list(range(1, 26))
    lines = await platform.lines(lease)
    assert [line.text for line in lines] == [*(f"step {step}" for step in range(1, 26)), "done"]
    assert [line.seq for line in lines] == list(range(1, 27))


async def test_the_trace_of_the_request_runs_through_the_trainers_lines(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("finish")
    await platform.until(lease, "Finished")
    assert lease.traceparent is not None
    trace = lease.traceparent.split("-")[1]
    lines = trainer.log.read_text().splitlines()
    assert any(trace in line and "lease granted" in line for line in lines)
    assert any(f"training in the trace {trace}" in line for line in lines)


async def test_the_archive_has_the_model_and_the_result(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("finish")
    last = (await platform.until(lease, "Finished"))[-1]
    assert isinstance(last, Finished)
    data = b"".join([piece async for piece in platform.store.get(last.files[0].key)])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == [
            "model/README.md",
            "model/adapter_config.json",
            "model/adapter_model.safetensors",
            "model/tokenizer.json",
            "result.json",
        ]


@pytest.mark.alone  # here seconds are counted
async def test_a_cancellation_reaches_training_within_five_seconds(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    await once_of_several(lambda: is_cancelled_in_time(platform))


async def is_cancelled_in_time(platform: ScriptedPlatform) -> None:
    lease = await platform.offer("slow", steps=10_000, checkpoint_every=10_000)
    await platform.until(lease, "Started")
    platform.verdicts[lease.job_id] = "cancel"
    async with asyncio.timeout(5):
        reports = await platform.until(lease, "Stopped")
    last = reports[-1]
    assert isinstance(last, Stopped)
    points = await platform.metrics(lease)
    assert last.tokens_processed == len(points) * TOKENS_A_STEP > 0


async def test_a_deaf_training_process_is_killed_after_its_grace(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("deaf", steps=10_000, checkpoint_every=10_000)
    await platform.until(lease, "Started")
    platform.verdicts[lease.job_id] = "cancel"
    await platform.until(lease, "Stopped")
    assert trainer.training_pids() == set()


async def test_a_lost_lease_ends_training_and_reports_nothing(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("slow", steps=10_000, checkpoint_every=10_000)
    await platform.until(lease, "Started")
    platform.verdicts[lease.job_id] = "lost"
    await eventually(lambda: not trainer.training_pids())
    # The trainer goes on with other work.
    await platform.until(await platform.offer("finish"), "Finished")
    assert await platform.kinds(lease) == ["Started"]


async def test_checkpoints_are_stored_and_another_attempt_resumes_from_one(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("slow", steps=10_000, checkpoint_every=5)
    kept = (await platform.until(lease, "Checkpointed"))[-1]
    assert isinstance(kept, Checkpointed)
    checkpoint = kept.checkpoint
    assert checkpoint.tokens_processed == checkpoint.step * TOKENS_A_STEP
    assert await platform.store.sha256(checkpoint.key) == checkpoint.sha256
    platform.verdicts[lease.job_id] = "lost"
    await eventually(lambda: not trainer.training_pids())

    again = await platform.offer(
        "finish", steps=checkpoint.step + 3, checkpoint=checkpoint, epoch=2
    )

    first = (await platform.until(again, "Finished"))[0]
    assert isinstance(first, Started)
    assert first.resumed_from_step == checkpoint.step
    steps = [point.step for point in await platform.metrics(again)]
    assert steps == [checkpoint.step + n for n in (1, 2, 3)]
    assert (await platform.lines(again))[0].seq == LINES_PER_ATTEMPT + 1


async def test_training_gets_everything_that_its_lease_names(
    platform: ScriptedPlatform, trainer: Trainer, tmp_path: Path
) -> None:
    lease = await platform.offer("tell", merged_model=True)
    platform.offers.remove(lease)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "weights").write_text("learnt before")
    pack(tmp_path / "state", tmp_path / "state.tar")
    kept = (tmp_path / "state.tar").read_bytes()
    begins = Checkpoint(
        step=40,
        key=f"jobs/{uuid4()}/1/checkpoint-40.tar",
        sha256=hashlib.sha256(kept).hexdigest(),
        size_bytes=len(kept),
        tokens_processed=1,
    )
    await platform.store.put(begins.key, kept)
    assert lease.dataset is not None
    held_out = replace(
        lease.dataset, key=f"datasets/{uuid4()}", sha256=hashlib.sha256(b"other rows").hexdigest()
    )
    await platform.store.put(held_out.key, b"other rows")
    adapter = ModelSource(kind="s3", location=f"jobs/{uuid4()}/1")
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        await platform.store.put(f"{adapter.location}/{name}", b"{}")
    model = replace(lease.model, adapter=adapter)

    platform.grant(replace(lease, validation=held_out, start_from=begins, model=model))
    last = (await platform.until(lease, "Finished"))[-1]

    said = [line.text for line in await platform.lines(lease)][:3]
    assert said[0].endswith(": adapter_config.json={}, adapter_model.safetensors={}")
    assert said[1:] == [
        "held out in validation.jsonl: validation.jsonl=other rows",
        "start in step-40: weights=learnt before",
    ]
    assert isinstance(last, Finished)
    roles = {file.name: file.role for file in last.files}
    assert roles["merged-model.safetensors"] == "model"
    assert roles["merged-config.json"] == "config"
    assert roles["adapter_model.safetensors"] == "adapter"


async def test_a_damaged_checkpoint_is_not_unpacked(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    await platform.store.put("damaged", b"not what was recorded")
    lease = await platform.offer(
        "finish",
        checkpoint=Checkpoint(
            step=5, key="damaged", sha256="0" * 64, size_bytes=21, tokens_processed=50
        ),
    )
    await eventually(lambda: "its SHA-256 is not the one" in trainer.log.read_text())
    assert trainer.training_pids() == set()
    platform.verdicts[lease.job_id] = "lost"
    await platform.until(await platform.offer("finish"), "Finished")
    assert await platform.kinds(lease) == []


async def test_what_training_says_of_its_failure_is_reported(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("fail")
    last = (await platform.until(lease, "Failed"))[-1]
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == ("invalid_dataset", False)
    assert last.message == "line 3 has no answer to learn; remove it"


async def test_a_crashed_training_process_is_reported_with_its_last_words(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("crash")
    last = (await platform.until(lease, "Failed"))[-1]
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == ("internal_error", True)
    assert "SIGABRT" in last.message
    assert "the ground opened" in last.message


async def test_a_killed_training_process_counts_as_out_of_memory(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("slow", steps=10_000, checkpoint_every=10_000)
    await platform.until(lease, "Started")
    (pid,) = trainer.training_pids()
    os.kill(pid, signal.SIGKILL)
    last = (await platform.until(lease, "Failed"))[-1]
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == ("out_of_memory", True)


async def test_a_model_that_is_not_here_fails_the_job_at_once(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("finish", model="no-such-model")
    (last,) = await platform.until(lease, "Failed")
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == ("model_load_failed", False)


async def test_training_dies_with_a_service_that_is_killed(
    platform: ScriptedPlatform, trainer: Trainer
) -> None:
    lease = await platform.offer("deaf", steps=10_000, checkpoint_every=10_000)
    await platform.until(lease, "Started")
    (pid,) = trainer.training_pids()
    trainer.process.kill()
    await eventually(lambda: not psutil.pid_exists(pid))
    # What it left on the disk is swept by its successor.
    assert list(trainer.work.glob("attempts/*/*/dataset.jsonl"))
    trainer.start_if_gone()
    other = await platform.offer("finish")
    await platform.until(other, "Finished")
    await eventually(lambda: not list(trainer.work.glob("attempts/*")))


async def test_an_attempt_survives_the_death_of_nats_and_of_the_object_store(
    platform: ScriptedPlatform, trainer: Trainer, own_servers: Servers
) -> None:
    lease = await platform.offer("slow", steps=60, checkpoint_every=5)
    await platform.until(lease, "Checkpointed")
    for name in ("nats", "s3"):
        await own_servers.kill(name)

    reports = await platform.until(lease, "Finished")

    assert [point.step for point in await platform.metrics(lease)] == list(range(1, 61))
    assert [line.seq for line in await platform.lines(lease)] == list(range(1, 62))
    last = reports[-1]
    assert isinstance(last, Finished)
    assert await platform.store.sha256(last.files[0].key) == last.files[0].sha256
