"""One trainer, real training, jobs of every type: each works on the model of the one before."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from libs.bus.broker import make_broker
from libs.contracts.base import ModelSource
from libs.contracts.scheduler_rpc import LeaseGranted
from libs.contracts.trainer import Checkpointed, Finished, Started, Stopped
from services.trainer.launch_forked import ForkServerLauncher
from services.trainer.link import Link
from services.trainer.site import Site
from services.trainer.worker import Worker
from tests.support.scripted_platform import ScriptedPlatform
from tests.support.training import chats, contract_spec, grow_spec, spec, write_rows

MODEL_FILES = {
    "config.json": "config",
    "model.safetensors": "model",
    "tokenizer.json": "tokenizer",
    "tokenizer_config.json": "tokenizer",
}


@pytest.fixture(scope="module")
async def worker(
    nats_url: str, platform: ScriptedPlatform, tiny_model: Path, tmp_path_factory: Any
) -> AsyncIterator[Worker]:
    folder: Path = tmp_path_factory.mktemp("trainer")
    shutil.copytree(tiny_model, folder / "models" / "tiny-llama")
    broker = make_broker(nats_url)
    client = await broker.connect()
    async with aiohttp.ClientSession() as http:
        worker = Worker(
            link=Link(broker, client.jetstream(), http),
            launcher=ForkServerLauncher("services.trainer.train:run", "services.trainer.preload"),
            site=Site(
                trainer_id="trainer-0",
                work_dir=folder / "work",
                models_dir=folder / "models",
                threads=2,
                now=lambda: datetime.now(UTC),
                new_id=uuid4,
            ),
            instance_id=uuid4(),
            memory_bytes=2**30,
        )
        working = asyncio.create_task(worker.run())
        yield worker
        worker.leave()
        await working
    await broker.stop()


async def lease(platform: ScriptedPlatform, folder: Path, **fields: Any) -> LeaseGranted:
    """A lease with a data set of chats, changed by ``fields``; nobody has asked for it yet."""
    rows = write_rows(folder / "chats.jsonl", chats()).read_bytes()
    offered = await platform.offer(rows)
    platform.offers.remove(offered)
    lease = LeaseGranted(
        **({name: getattr(offered, name) for name in offered.__struct_fields__} | fields)
    )
    return platform.grant(lease)


def model_of(platform: ScriptedPlatform, last: LeaseGranted) -> dict[str, Any]:
    """The base model of the next job: what the last one has made."""
    source = ModelSource(kind="s3", location=f"jobs/{last.job_id}/{last.epoch}")
    return {"model": type(last.model)(id=uuid4(), slug="mine", params=1000, source=source)}


async def finished(platform: ScriptedPlatform, lease: LeaseGranted) -> Finished:
    report = (await platform.until(lease, "Finished"))[-1]
    assert isinstance(report, Finished)
    return report


async def test_a_model_is_grown_then_shrunk_then_tuned(
    platform: ScriptedPlatform, worker: Worker, tmp_path: Path
) -> None:
    here = Path(".")
    growing = await lease(
        platform,
        tmp_path,
        job_type="train",
        params=None,
        train_params=grow_spec(here, here, here, turns=1).train_params,
    )
    grown = await finished(platform, growing)
    assert {file.name: file.role for file in grown.files}.items() >= MODEL_FILES.items()
    assert any(isinstance(r, Checkpointed) for r in await platform.reports(growing))
    points = await platform.metrics(growing)
    assert {point.phase for point in points} == {"grow", "train", "eval"}

    shrinking = await lease(
        platform,
        tmp_path,
        job_type="contract",
        dataset=None,
        params=None,
        contract_params=contract_spec(here, here).contract_params,
        **model_of(platform, growing),
    )
    shrunk = await finished(platform, shrinking)
    assert {file.name: file.role for file in shrunk.files}.items() >= MODEL_FILES.items()
    assert shrunk.result.params_before == grown.result.params_after > shrunk.result.params_after
    started = (await platform.reports(shrinking))[0]
    assert isinstance(started, Started)
    assert started.steps_total == shrunk.result.steps

    tuning = await lease(
        platform,
        tmp_path,
        params=spec(here, here, here, steps=4).params,
        **model_of(platform, shrinking),
    )
    tuned = await finished(platform, tuning)
    assert tuned.result.params_before == shrunk.result.params_after
    assert any(file.role == "adapter" for file in tuned.files)


async def test_a_contraction_that_is_cancelled_stops(
    platform: ScriptedPlatform, worker: Worker, tmp_path: Path
) -> None:
    long = contract_spec(Path("."), Path("."), calibration_rows=10_000)
    cancelled = await lease(
        platform,
        tmp_path,
        job_type="contract",
        dataset=None,
        params=None,
        contract_params=long.contract_params,
    )
    await platform.until(cancelled, "Started")
    platform.verdicts[cancelled.job_id] = "cancel"
    async with asyncio.timeout(90):
        report = (await platform.until(cancelled, "Stopped"))[-1]
    assert isinstance(report, Stopped)
    assert report.tokens_processed < long.contract.planned_tokens
