"""A hand-over is no failure: a whole platform, and a trainer that is replaced all the time."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from deploy.local.state import Credentials, load
from deploy.rebuild import rebuild_all
from libs.contracts.base import DatasetRef
from libs.contracts.training import FinetuneParams
from libs.objectstore import ObjectStore
from services.scheduler.model import HANDED_BACK, MAX_RETRIES
from tests.support.objects import store_settings
from tests.support.platform_ends import PRICE, Platform, running_platform, started
from tests.support.scripted_platform import eventually, local_model
from tests.support.trainer_process import GONE_SECONDS, Trainer

TIMES = 7  # more than the trainers that a job may lose
STEPS = 600  # of 0.05 s: it lasts for all of them on a busy machine, and ends
PATIENCE = 180.0  # seconds until a trainer has started, or has done what is left


@pytest.fixture(scope="module")
async def platform() -> AsyncIterator[Platform]:
    async with running_platform(also=("gateway",)) as running:
        yield running


async def slow_job(platform: Platform) -> UUID:
    """One that its trainer could do in some seconds, if it were let."""
    script = b"slow"
    dataset = DatasetRef(
        id=uuid4(),
        key=f"datasets/{uuid4()}",
        sha256=hashlib.sha256(script).hexdigest(),
        size_bytes=len(script),
        rows=1,
        tokens=1,
        kind="text",
    )
    async with ObjectStore(store_settings(platform.stack.s3)) as store:
        await store.put(dataset.key, script)
    params = FinetuneParams(
        steps=STEPS, learning_rate=1e-3, seq_len=64, batch_size=4, checkpoint_every=1_000
    )
    return await platform.submit(dataset=dataset, params=params)


async def leaves(trainer: Trainer) -> None:
    trainer.process.terminate()
    await eventually(trainer.gone, seconds=GONE_SECONDS)


async def until(platform: Platform, job_id: UUID, **fields: object) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            state = await platform.state(job_id)
            if all(getattr(state, name) == value for name, value in fields.items()):
                return
            await asyncio.sleep(0.02)


async def shown(platform: Platform, path: str) -> Any:
    """What the job's owner sees."""
    account = load(platform.stack.folder / "credentials.json", Credentials)
    assert account is not None
    headers = {"Authorization": f"Bearer {account.api_key}"}
    async with platform.http.get(f"{account.base_url}{path}", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_a_job_whose_trainer_is_told_to_leave_seven_times_completes_and_is_paid_once(
    platform: Platform, tmp_path: Path
) -> None:
    before = await platform.balance()
    trainer = Trainer(tmp_path, platform.stack.nats_url("trainer"))
    local_model(trainer.models)
    job_id = await slow_job(platform)
    try:
        for attempt in range(1, TIMES + 1):
            trainer.start_if_gone()
            await until(platform, job_id, epoch=attempt, status="running")
            await leaves(trainer)
            await until(platform, job_id, status="queued", retries=attempt, losses=0)
        trainer.start_if_gone()
        await until(platform, job_id, trained=True)
        await platform.ended(job_id, "completed")
        await leaves(trainer)  # or the next job would be granted to it when it is no more
    finally:
        trainer.end()

    assert (await platform.balance()).balance_cents == before.balance_cents - PRICE
    assert (await shown(platform, f"/v1/jobs/{job_id}"))["retries"] == TIMES
    events = await shown(platform, f"/v1/jobs/{job_id}/events")
    kinds = [event["kind"] for event in events]
    assert [kinds.count(kind) for kind in ("payment.captured", "job.completed")] == [1, 1]
    assert [event["payload"] for event in events if event["kind"] == "job.reclaimed"] == [
        {"attempt": times, "reason": HANDED_BACK, "handed_back": True, "retries": times}
        for times in range(1, TIMES + 1)
    ]
    begun = [event["payload"] for event in events if event["kind"] == "job.started"]
    steps = [attempt["resumed_from_step"] for attempt in begun]
    assert steps == sorted(steps)
    assert steps[-1] > 0
    rebuilt = await rebuild_all(platform.stack.admin_dsn())
    assert [done for done in rebuilt if done.changed] == []


async def test_a_job_that_loses_its_trainer_six_times_fails_and_costs_nothing(
    platform: Platform,
) -> None:
    before = await platform.balance()
    job_id = await platform.submit()
    for attempt in range(1, MAX_RETRIES + 2):
        lease = await platform.lease("t-1")  # as a new process, whose former one is gone
        assert (lease.job_id, lease.epoch) == (job_id, attempt)
        await platform.report(started(lease, "t-1"))
        await until(platform, job_id, status="running")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await platform.lease("t-1")

    failed = await platform.ended(job_id, "failed")
    assert (failed.failure_code, failed.retries) == ("retries_exhausted", MAX_RETRIES)
    assert failed.failure_message is not None
    assert "lost its trainer 6 times" in failed.failure_message
    assert await platform.balance() == before
