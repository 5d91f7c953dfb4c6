"""A machine is lost under load: nothing is that was acknowledged, and the platform goes on."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import Struct

from deploy.local.account import FIRST_BALANCE_CENTS
from deploy.local.state import admin_dsn
from deploy.rebuild import rebuild_all, verify_log
from libs.bus.republish import publish_again
from libs.eventlog.connection import connect
from tests.support.disaster import STEPS, SUBMITTERS, Archive, Submissions, jobs_in, restore
from tests.support.journey import RUN_SECONDS, User, sample_rows
from tests.support.local_stack import LocalStack, base_model, eventually

LOAD = 5  # submissions before, and after, whatever happens in between
SLOW = {"steps": 10_000, "batch_size": 2, "seq_len": 64, "checkpoint_every": 100, "seed": 7}


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
        user, api_key = User(stack), stack.credentials.api_key
        dataset_id = user.upload(sample_rows(20))
        long = user.submit_job(dataset_id, **SLOW)
        eventually(
            lambda: user.kinds(long),
            lambda kinds: "job.checkpointed" in kinds,
            RUN_SECONDS,
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
    acknowledged = {*lost.submissions.acknowledged, lost.long}
    assert len(acknowledged) > 3 * LOAD
    known = asyncio.run(found(again))
    assert acknowledged <= known.jobs
    waiting = [job_id for job_id in known.jobs - {lost.long} if is_queued(user, job_id)]
    for job_id in waiting[2:]:
        user.cancel(job_id)

    assert_it_was_taken_up(user, lost.long)
    new = user.submit_job(lost.dataset_id, steps=STEPS, batch_size=2, seq_len=64)
    for job_id in (*waiting[:2], new):
        user.until_completed(job_id)
    for job_id in known.jobs:
        assert_paid_once(user, job_id)
    assert asyncio.run(published_again_and_verified(again)) > len(known.jobs)
    eventually(
        lambda: asyncio.run(found(again)), lambda now: now.outbox == 0, 90, "an empty outbox"
    )

    # Published again, all of it has had no effect for a second time.
    known = asyncio.run(found(again))
    charges = sum(user.job(job_id)["charge_cents"] for job_id in known.jobs)
    assert user.balance() == FIRST_BALANCE_CENTS - charges - known.reserved_cents
    asyncio.run(published_again_and_verified(again))


class Found(Struct, frozen=True, kw_only=True):
    """All jobs; what is reserved for submissions that the loss broke off, which get it back in ten
    minutes; and what NATS is still to be told."""

    jobs: set[str]
    reserved_cents: int
    outbox: int


async def found(stack: LocalStack) -> Found:
    connection = await connect(admin_dsn(stack.folder))
    try:
        jobs = await connection.fetch("SELECT id FROM log.job")
        reserved = await connection.fetchval(
            "SELECT coalesce(sum(amount_cents), 0)::bigint FROM billing.payment"
            " WHERE status = 'reserved'"
        )
        outbox = await connection.fetchval("SELECT count(*) FROM log.outbox")
    finally:
        await connection.close()
    return Found(jobs={str(row["id"]) for row in jobs}, reserved_cents=reserved, outbox=outbox)


async def published_again_and_verified(stack: LocalStack) -> int:
    """The log is whole, every read model follows from it, and all of it is published again."""
    dsn = admin_dsn(stack.folder)
    assert (await verify_log(dsn)).damages == []
    assert [done for done in await rebuild_all(dsn) if done.changed] == []
    connection = await connect(dsn)
    try:
        return await publish_again(connection, since=datetime.now(UTC) - timedelta(days=7))
    finally:
        await connection.close()


def is_queued(user: User, job_id: str) -> bool:
    return bool(user.job(job_id)["status"] == "queued")


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


async def test_restored_as_of_a_moment_it_has_what_was_acknowledged_before_and_nothing_after(
    lost: Lost,
) -> None:
    new = lost.new.with_name("third")
    restore(lost.backup, new, "--until", lost.moment.isoformat())

    jobs = await jobs_in(new)

    acknowledged, sent = lost.submissions.acknowledged, lost.submissions.sent
    before = {job_id for job_id, at in acknowledged.items() if at < lost.moment}
    after = {job_id for job_id, at in sent.items() if at > lost.moment}
    assert len(before) >= 2 * LOAD
    assert len(after) >= LOAD - SUBMITTERS
    assert before <= jobs
    assert not jobs & after
