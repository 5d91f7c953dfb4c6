"""A job's way through the house: every service its own process, the gateway and the trainer here.

The test speaks as the gateway (reserve, append) and as a trainer (lease, upload, report), each
with no more rights than that service has; everything between them is the real thing.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import pytest

from deploy.rebuild import rebuild_all, verify_log
from libs.bus.rpc import ask
from libs.contracts import artifact_rpc, billing_rpc, scheduler_rpc
from libs.contracts.scheduler import Checkpoint
from libs.contracts.trainer import Checkpointed, Stopped
from libs.eventlog.read import timeline
from tests.support.platform_ends import (
    PATIENCE,
    POLL,
    PRICE,
    Platform,
    finished,
    running_platform,
    started,
)


@pytest.fixture(scope="module")
async def platform() -> AsyncIterator[Platform]:
    async with running_platform() as running:
        yield running


async def story(platform: Platform, job_id: UUID) -> list[str]:
    return [entry.type.removesuffix(".v1") for entry in await timeline(platform.sql, job_id)]


async def assert_the_log_holds(platform: Platform) -> None:
    """Nothing is left to send, nothing was given up, every read model follows from the log."""
    async with asyncio.timeout(PATIENCE):
        while await platform.sql.fetchval("SELECT count(*) FROM log.outbox"):  # noqa: ASYNC110
            await asyncio.sleep(POLL)
    assert await platform.sql.fetch("SELECT * FROM log.dead_letter") == []
    rebuilt = await rebuild_all(platform.stack.admin_dsn())
    assert [done for done in rebuilt if done.changed] == []
    assert (await verify_log(platform.stack.admin_dsn())).damages == []


async def test_a_job_is_reserved_leased_trained_verified_completed_and_captured(
    platform: Platform,
) -> None:
    before = await platform.balance()
    job_id = await platform.submit()
    assert (await platform.balance()).balance_cents == before.balance_cents - PRICE

    lease = await platform.lease("t-0")
    assert (lease.job_id, lease.epoch) == (job_id, 1)
    await platform.report(started(lease, "t-0"))
    assert (await platform.heartbeat(lease, "t-0")).verdict == "continue"
    archive = await platform.upload(lease, "artifacts.tar.gz", b"archive" * 1_000, "archive")
    adapter = await platform.upload(lease, "adapter_model.safetensors", b"weights", "adapter")
    await platform.report(finished(lease, "t-0", archive, adapter))

    state = await platform.ended(job_id, "completed")
    assert (state.files, state.charge_cents, state.retries) == ((archive, adapter), PRICE, 0)
    assert await story(platform, job_id) == [
        "payment.reserved",
        "job.submitted",
        "job.leased",
        "job.started",
        "job.trained",
        "artifact.published",
        "job.completed",
        "payment.captured",
    ]
    links = await ask(
        platform.gateway,
        artifact_rpc.DOWNLOADS,
        artifact_rpc.GetDownloads(job_id=job_id, archive=True),
    )
    assert isinstance(links, artifact_rpc.Downloads)
    async with platform.http.get(links.links[0].url) as download:
        assert await download.read() == b"archive" * 1_000
    await assert_the_log_holds(platform)


async def test_a_restarted_trainer_loses_its_job_to_the_next_attempt_with_its_checkpoint(
    platform: Platform,
) -> None:
    job_id = await platform.submit()
    lost = await platform.lease("t-1")
    await platform.report(started(lost, "t-1"))
    stored = await platform.upload(lost, "checkpoint-50.tar", b"state", "checkpoint")
    checkpoint = Checkpoint(
        step=50, key=stored.key, sha256=stored.sha256, size_bytes=5, tokens_processed=51_200
    )
    await platform.report(
        Checkpointed(
            report_id=uuid4(),
            job_id=job_id,
            epoch=lost.epoch,
            trainer_id="t-1",
            checkpoint=checkpoint,
        )
    )
    async with asyncio.timeout(PATIENCE):
        while (await platform.state(job_id)).checkpoint is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL)

    lease = await platform.lease("t-1")
    assert (lease.job_id, lease.epoch, lease.checkpoint) == (job_id, 2, checkpoint)
    inputs = await ask(
        platform.trainer, artifact_rpc.INPUTS, artifact_rpc.GetInputs(job_id=job_id, epoch=2)
    )
    assert isinstance(inputs, artifact_rpc.Inputs)
    assert inputs.checkpoint_url is not None
    async with platform.http.get(inputs.checkpoint_url) as download:
        assert await download.read() == b"state"

    assert (await platform.heartbeat(lost, "t-1")).verdict == "lost"
    late = await platform.upload(lease, "artifacts.tar.gz", b"late", "archive")
    await platform.report(finished(lost, "t-1", late))
    await platform.report(started(lease, "t-1", resumed_from_step=50))
    archive = await platform.upload(lease, "artifacts.tar.gz", b"whole", "archive")
    await platform.report(finished(lease, "t-1", archive))

    state = await platform.ended(job_id, "completed")
    assert (state.retries, state.files) == (1, (archive,))
    await assert_the_log_holds(platform)


async def test_a_cancelled_job_stops_at_the_next_heartbeat_and_costs_its_share(
    platform: Platform,
) -> None:
    before = await platform.balance()
    job_id = await platform.submit(tokens_planned=1_000)
    lease = await platform.lease("t-2")
    await platform.report(started(lease, "t-2"))
    await ask(platform.gateway, scheduler_rpc.CANCEL, scheduler_rpc.CancelJob(job_id=job_id))

    assert (await platform.heartbeat(lease, "t-2")).verdict == "cancel"
    await platform.report(
        Stopped(
            report_id=uuid4(),
            job_id=job_id,
            epoch=lease.epoch,
            trainer_id="t-2",
            tokens_processed=250,
        )
    )
    state = await platform.ended(job_id, "cancelled")
    assert state.charge_cents == PRICE // 4
    assert (await platform.balance()).balance_cents == before.balance_cents - PRICE // 4
    await assert_the_log_holds(platform)


async def test_a_result_that_is_not_what_the_trainer_said_fails_the_job_and_costs_nothing(
    platform: Platform,
) -> None:
    before = await platform.balance()
    job_id = await platform.submit()
    lease = await platform.lease("t-3")
    await platform.report(started(lease, "t-3"))
    archive = await platform.upload(lease, "artifacts.tar.gz", b"damaged", "archive")
    await platform.report(finished(lease, "t-3", msgspec.structs.replace(archive, sha256="0" * 64)))
    state = await platform.ended(job_id, "failed")
    assert state.failure_code == "artifact_rejected"
    assert await platform.balance() == before
    await assert_the_log_holds(platform)


async def test_storage_that_was_paid_by_a_gateway_that_died_is_extended_by_itself(
    platform: Platform,
) -> None:
    job_id = await platform.submit()
    lease = await platform.lease("t-4")
    await platform.report(started(lease, "t-4"))
    archive = await platform.upload(lease, "artifacts.tar.gz", b"archive", "archive")
    await platform.report(finished(lease, "t-4", archive))
    completed = await platform.ended(job_id, "completed")
    before = await platform.balance()

    purchase = billing_rpc.ExtendStorage(
        account_id=platform.account_id, job_id=job_id, extension_id=uuid4()
    )
    paid = await ask(platform.gateway, billing_rpc.EXTEND_STORAGE, purchase)
    assert isinstance(paid, billing_rpc.StorageExtended)
    async with asyncio.timeout(PATIENCE):
        while not (await platform.state(job_id)).extensions:  # noqa: ASYNC110
            await asyncio.sleep(POLL)

    state = await platform.state(job_id)
    assert completed.artifacts_expires_at is not None
    assert state.artifacts_expires_at == paid.artifacts_expires_at
    assert paid.artifacts_expires_at - completed.artifacts_expires_at == timedelta(days=paid.days)
    move = scheduler_rpc.ExtendRetention(
        job_id=job_id, extension_id=purchase.extension_id, days=paid.days
    )
    await ask(platform.gateway, scheduler_rpc.EXTEND_RETENTION, move)
    again = await ask(platform.gateway, billing_rpc.EXTEND_STORAGE, purchase)
    assert isinstance(again, billing_rpc.StorageExtended)
    assert again.repeated
    assert await platform.state(job_id) == state
    assert (await platform.balance()).balance_cents == before.balance_cents - paid.price_cents
    await assert_the_log_holds(platform)
