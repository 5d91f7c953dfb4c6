"""A machine is lost under load: nothing is that was acknowledged, and the platform goes on."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from deploy.local.state import admin_dsn
from libs.eventlog.connection import connect
from tests.support.disaster import STEPS, Archive, Submissions, jobs_in, restore
from tests.support.journey import RUN_SECONDS, User, sample_rows
from tests.support.local_stack import LocalStack, base_model, eventually

LOAD = 10  # submissions before, and after, whatever happens in between
PLENTY = 1_000_000  # cents
SLOW = {"steps": 10_000, "batch_size": 4, "seq_len": 128, "checkpoint_every": 50, "seed": 7}
FIRST_CHECKPOINT_SECONDS = 60.0


class Lost(Struct, kw_only=True):
    """What is left of a stack: the backup, and what customers were told. ``long`` ran when the
    machine was lost, and ``moment`` is a time between the backup and the loss."""

    backup: Path
    api_key: str
    submissions: Submissions
    long: str
    moment: datetime
    dataset_id: str
    new: Path


@pytest.fixture(scope="module")
def lost() -> Iterator[Lost]:
    parent = Path(tempfile.mkdtemp(prefix="tuneyard-restore-"))
    parent.chmod(0o755)  # PostgreSQL runs as another user when this one is root
    stack, folder = LocalStack(parent / "first"), parent / "backup"
    stack.start()
    try:
        _, api_key = stack.new_account(PLENTY)
        user = User(stack, api_key)
        dataset_id = user.upload(sample_rows(20))
        long = user.submit_job(dataset_id, **SLOW)
        eventually(
            lambda: user.kinds(long),
            lambda kinds: "job.checkpointed" in kinds,
            FIRST_CHECKPOINT_SECONDS,
            "a checkpoint",
        )
        archive = Archive(stack, folder)
        submissions = Submissions(stack, user, dataset_id)
        submissions.start()
        try:
            submissions.more(LOAD)
            stack.run("backup", str(folder))
            submissions.more(LOAD)
            moment = datetime.now(UTC)
            submissions.more(LOAD)
            stack.lose()
        finally:
            submissions.stop()
        archive.kill()
        shutil.rmtree(stack.folder)
        yield Lost(
            backup=folder,
            api_key=api_key,
            submissions=submissions,
            long=long,
            moment=moment,
            dataset_id=dataset_id,
            new=parent / "second",
        )
    finally:
        stack.stop()
        shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture(scope="module")
def again(lost: Lost) -> Iterator[LocalStack]:
    """The stack in its new folder."""
    told = restore(lost.backup, lost.new)
    assert "were taken from their trainers" in told
    shutil.copytree(base_model(), lost.new / "models" / "tiny-llama")
    stack = LocalStack(lost.new)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def test_every_acknowledged_submission_is_there_and_the_platform_goes_on(
    lost: Lost, again: LocalStack
) -> None:
    user = User(again, lost.api_key)
    acknowledged = [*lost.submissions.acknowledged, lost.long]
    assert len(acknowledged) > 3 * LOAD
    statuses = {job_id: user.job(job_id)["status"] for job_id in acknowledged}
    waiting = [job_id for job_id in lost.submissions.acknowledged if statuses[job_id] == "queued"]
    for job_id in waiting[2:]:
        user.cancel(job_id)

    assert_it_was_taken_up(user, lost.long)
    new = user.submit_job(lost.dataset_id, steps=STEPS, batch_size=2, seq_len=64)
    for job_id in (*waiting[:2], new):
        user.until_completed(job_id)
    for job_id in acknowledged:
        assert_paid_once(user, job_id)
    assert user.balance() == PLENTY - charged(user, [*acknowledged, new])
    again.assert_the_log_holds()
    # Published again, all of it has no effect for a second time.
    assert "published again" in again.run("streams", "rebuild")
    eventually(lambda: outbox(again), lambda left: left == 0, 30, "an empty outbox")
    assert user.balance() == PLENTY - charged(user, [*acknowledged, new])
    again.assert_the_log_holds()


def outbox(stack: LocalStack) -> int:
    return asyncio.run(_outbox(stack))


async def _outbox(stack: LocalStack) -> int:
    connection = await connect(admin_dsn(stack.folder))
    try:
        left: int = await connection.fetchval("SELECT count(*) FROM log.outbox")
    finally:
        await connection.close()
    return left


def assert_it_was_taken_up(user: User, job_id: str) -> None:
    """The job that ran goes on from its checkpoint, under an epoch that was never given, and the
    interruption is no retry."""
    events = eventually(
        lambda: user.events(job_id),
        lambda events: [e["kind"] for e in events].count("job.started") == 2,
        RUN_SECONDS,
        "another attempt",
    )
    assert user.job(job_id)["retries"] == 0
    reclaimed = [e["payload"] for e in events if e["kind"] == "job.reclaimed"]
    assert [r["reason"] for r in reclaimed] == ["the platform was restored from a backup"]
    attempts = [e["payload"] for e in events if e["kind"] == "job.started"]
    assert attempts[0]["attempt"] == 1 < 10_000 < attempts[1]["attempt"]
    assert attempts[1]["resumed_from_step"] >= SLOW["checkpoint_every"]
    user.cancel(job_id)


def assert_paid_once(user: User, job_id: str) -> None:
    user.until_ended(job_id)
    kinds = user.kinds(job_id)
    assert kinds.count("payment.reserved") == 1, kinds
    assert kinds.count("payment.captured") + kinds.count("payment.voided") == 1, kinds


def charged(user: User, job_ids: list[str]) -> int:
    jobs: list[Any] = [user.job(job_id) for job_id in job_ids]
    return sum(job["charge_cents"] for job in jobs)


async def test_restored_as_of_a_moment_it_has_what_was_acknowledged_before_and_nothing_after(
    lost: Lost,
) -> None:
    new = lost.new.with_name("third")
    restore(lost.backup, new, "--until", lost.moment.isoformat())

    jobs = await jobs_in(new)

    acknowledged, sent = lost.submissions.acknowledged, lost.submissions.sent
    before = {job_id for job_id, at in acknowledged.items() if at < lost.moment}
    after = {job_id for job_id, at in sent.items() if at > lost.moment}
    assert len(before) >= 2 * LOAD <= len(before | after)
    assert before <= jobs
    assert not jobs & after
