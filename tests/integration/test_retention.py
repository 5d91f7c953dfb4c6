"""Files are really deleted: leftovers after the job, results after their expiry, each told once."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
from faststream.nats import NatsBroker
from msgspec import Struct
from msgspec.structs import replace

from deploy.local.s3 import S3Settings
from deploy.rebuild import rebuild_all
from libs.contracts.artifact import ArtifactDeleted
from libs.contracts.artifact_rpc import GetDownloads, NotPublished
from libs.contracts.base import ArtifactFile, DatasetRef, ModelRef, ModelSource
from libs.contracts.billing import PaymentExtensionCharged
from libs.contracts.events import JobEvent, decode_artifact_event
from libs.contracts.scheduler import (
    Checkpoint,
    JobCancelled,
    JobCheckpointed,
    JobCompleted,
    JobFailed,
    JobLeased,
    JobRetentionExtended,
    JobTrained,
)
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, connect, create_pool
from libs.eventlog.groupcommit import GroupCommit
from libs.eventlog.read import load, timeline
from libs.eventlog.record import Append, Head, records_after
from libs.jobstate.checkpoints import KEPT_FOR
from libs.jobstate.state import JobState, fold, job_stream, row_of
from libs.objectstore import ObjectStore, StoreUnavailable
from services.artifact.handlers import Desk
from services.artifact.model import EXPIRY_MARGIN, LEFTOVERS_GRACE, RETENTION
from services.artifact.pruning import prune
from services.artifact.retention import CLAIM, Keeper, delete_due
from services.gateway.timeline import moment
from services.gateway.views import downloadable
from tests.support.jobs import (
    NOON,
    Clock,
    context,
    envelope,
    finished_result,
    first_append,
    submission,
)
from tests.support.objects import store_settings
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually

ACCOUNT = UUID(int=42)
MOMENT = timedelta(seconds=1)
EXPIRY = NOON + RETENTION
CANCELLED = JobCancelled(tokens_processed=1, charge_cents=0)
FAILED = JobFailed(code="internal_error", message="It broke.")


class DyingStore(ObjectStore):
    """Dies right after it has deleted ``lives`` objects, as its process would."""

    lives = 10**9

    async def delete(self, key: str) -> None:
        await super().delete(key)
        self.lives -= 1
        if not self.lives:
            raise StoreUnavailable("the process died")


class House(Struct, frozen=True, kw_only=True):
    keeper: Keeper
    clock: Clock
    store: DyingStore
    admin: Connection
    admin_dsn: str

    async def sweep(self, at: datetime) -> int:
        self.clock.now = at
        return await delete_due(self.keeper)

    async def keys(self, job: JobState) -> list[str]:
        """What is left of the job's files, without the folder's name."""
        folder = f"jobs/{job.id}/"
        return [key.removeprefix(folder) async for key in self.store.keys(folder)]

    async def has_dataset(self, job: JobState) -> bool:
        assert job.dataset is not None
        return [key async for key in self.store.keys(job.dataset.key)] != []

    async def told(self, job: JobState) -> list[tuple[str, int, int]]:
        _, events = await load(self.admin, f"artifact:{job.id}", decode_artifact_event)
        return [
            (e.event.reason, e.event.files, e.event.size_bytes)
            for e in events
            if isinstance(e.event, ArtifactDeleted)
        ]

    async def happened(self, state: JobState, event: JobEvent) -> JobState:
        """One more event of the job, by whom it may concern."""
        hash_ = await self.admin.fetchval(
            "SELECT hash FROM log.event WHERE stream = $1 ORDER BY version DESC LIMIT 1",
            job_stream(state.id),
        )
        head = Head(stream=job_stream(state.id), version=state.version, hash=hash_)
        state = fold(state, event, NOON)
        records = records_after(head, [event], context(), job_id=state.id, account_id=ACCOUNT)
        await append_in(self.admin, Append(records=records, job=row_of(state)))
        return state

    async def submitted(self, **changes: object) -> JobState:
        """A job with its data set in the store, 4 bytes."""
        key = f"datasets/{ACCOUNT}/{uuid4()}.jsonl"
        await self.store.put(key, b"rows")
        dataset = submission().dataset
        assert dataset is not None
        fields: dict[str, object] = {"dataset": _under(dataset, key)} | changes
        append, state = first_append(uuid4(), ACCOUNT, submission(**fields))
        await append_in(self.admin, append)
        return state

    async def trained(self, **changes: object) -> JobState:
        """A job whose second attempt is at work; two checkpoints lie there, of 5 bytes each."""
        state = await self.submitted(**changes)
        for epoch in (1, 2):
            await self.store.put(f"jobs/{state.id}/{epoch}/checkpoint-50.tar", b"state")
        return await self.happened(state, JobLeased(epoch=2, trainer_id="t-0"))

    async def completed(self, *, checkpoints: tuple[int, ...] = (), **changes: object) -> JobState:
        """And its result: two files of 7 bytes."""
        state = await checkpointed(self, await self.trained(**changes), *checkpoints)
        files = []
        for name, role in (("artifacts.tar.gz", "archive"), ("model.safetensors", "model")):
            key = f"jobs/{state.id}/2/{name}"
            await self.store.put(key, b"weights")
            files.append(ArtifactFile(name=name, role=role, key=key, size_bytes=7, sha256="0" * 64))
        trained = JobTrained(epoch=2, result=finished_result(), files=tuple(files))
        state = await self.happened(state, trained)
        completed = JobCompleted(tokens_processed=1, artifacts_expires_at=EXPIRY)
        return await self.happened(state, completed)

    async def pay_extension(self, job: JobState, days: int) -> UUID:
        paid = PaymentExtensionCharged(
            extension_id=uuid4(),
            amount_cents=1,
            currency="USD",
            days=days,
            artifacts_expires_at=EXPIRY + timedelta(days=days),
            balance_after_cents=0,
        )
        stream = Head(stream=f"payment:{job.id}")
        records = records_after(stream, [paid], context(), job_id=job.id, account_id=ACCOUNT)
        await append_in(self.admin, Append(records=records))
        return paid.extension_id


def _under(dataset: DatasetRef, key: str) -> DatasetRef:
    return DatasetRef(
        id=dataset.id,
        key=key,
        sha256=dataset.sha256,
        size_bytes=4,
        rows=dataset.rows,
        tokens=dataset.tokens,
        kind=dataset.kind,
    )


@pytest.fixture
async def house(fresh_database: Database, s3: S3Settings) -> AsyncIterator[House]:
    clock = Clock()
    async with (
        create_pool(fresh_database.dsn("artifact"), size=4) as pool,
        DyingStore(store_settings(s3)) as store,
    ):
        admin = await connect(fresh_database.admin_dsn)
        keeper = Keeper(
            pool=pool, store=store, now=lambda: clock.now, new_id=uuid4, committed=lambda: None
        )
        yield House(
            keeper=keeper,
            clock=clock,
            store=store,
            admin=admin,
            admin_dsn=fresh_database.admin_dsn,
        )
        await admin.close()


async def test_leftovers_of_a_completed_job_go_soon_and_its_result_when_it_has_expired(
    house: House,
) -> None:
    job = await house.completed()
    result = ["2/artifacts.tar.gz", "2/model.safetensors"]

    await house.sweep(NOON + LEFTOVERS_GRACE - MOMENT)
    assert len(await house.keys(job)) == 4  # a trainer may still be uploading
    await house.sweep(NOON + LEFTOVERS_GRACE)
    assert await house.keys(job) == result
    assert await house.told(job) == [("ended", 2, 10)]

    await house.sweep(EXPIRY + EXPIRY_MARGIN - MOMENT)
    assert await house.keys(job) == result
    assert await house.has_dataset(job)
    await house.sweep(EXPIRY + EXPIRY_MARGIN)
    assert await house.keys(job) == []
    assert not await house.has_dataset(job)
    assert await house.told(job) == [("ended", 2, 10), ("expired", 3, 18)]

    assert await house.sweep(EXPIRY + timedelta(days=3_650)) == 0


async def test_a_job_without_a_result_keeps_nothing_but_its_runs_data_set_for_a_week(
    house: House,
) -> None:
    jobs = [
        await house.happened(await house.trained(surface=surface), end)
        for surface in ("runs", "jobs")
        for end in (FAILED, CANCELLED)
    ]
    await house.sweep(NOON + LEFTOVERS_GRACE)
    assert [await house.keys(job) for job in jobs] == [[]] * 4
    await house.sweep(NOON + RETENTION - MOMENT)
    assert [await house.has_dataset(job) for job in jobs] == [True] * 4
    await house.sweep(NOON + RETENTION)
    assert [await house.has_dataset(job) for job in jobs] == [False, False, True, True]
    assert [await house.told(job) for job in jobs] == [
        *([("ended", 2, 10), ("expired", 1, 4)],) * 2,
        *([("ended", 2, 10)],) * 2,
    ]


async def test_nothing_is_told_of_a_job_that_left_nothing(house: House) -> None:
    job = await house.happened(await house.submitted(surface="jobs"), CANCELLED)
    await house.sweep(NOON + RETENTION)
    assert await house.told(job) == []
    assert await house.sweep(NOON + 2 * RETENTION) == 0


async def test_a_job_that_has_not_ended_keeps_everything(house: House) -> None:
    job = await house.trained()
    assert await house.sweep(NOON + timedelta(days=3_650)) == 0
    assert len(await house.keys(job)) == 2


async def test_an_extension_that_was_paid_counts_before_and_after_the_job_has_it(
    house: House,
) -> None:
    job = await house.completed()
    await house.sweep(NOON + LEFTOVERS_GRACE)
    extension_id = await house.pay_extension(job, days=30)
    later = EXPIRY + timedelta(days=30) + EXPIRY_MARGIN

    await house.sweep(EXPIRY + EXPIRY_MARGIN)
    await house.sweep(later - MOMENT)
    assert len(await house.keys(job)) == 2
    extended = JobRetentionExtended(
        extension_id=extension_id, artifacts_expires_at=EXPIRY + timedelta(days=30)
    )
    job = await house.happened(job, extended)
    await house.sweep(later - MOMENT)
    assert len(await house.keys(job)) == 2
    await house.sweep(later)
    assert await house.keys(job) == []


async def test_a_model_that_another_job_works_on_is_kept_until_that_has_ended(
    house: House,
) -> None:
    job = await house.completed()
    source = ModelSource(kind="s3", location=f"jobs/{job.id}/2")
    model = ModelRef(id=job.output_model_id, slug="mine", params=1, source=source)
    other = await house.submitted(model=model)

    await house.sweep(EXPIRY + EXPIRY_MARGIN)
    assert len(await house.keys(job)) == 2
    await house.happened(other, CANCELLED)
    await house.sweep(EXPIRY + EXPIRY_MARGIN + CLAIM)
    assert await house.keys(job) == []


def written(job: JobState, step: int) -> JobCheckpointed:
    return JobCheckpointed(
        epoch=2,
        checkpoint=Checkpoint(
            step=step,
            key=f"jobs/{job.id}/2/checkpoint-{step}.tar",
            sha256="0" * 64,
            size_bytes=5,
            tokens_processed=step,
        ),
    )


async def checkpointed(house: House, job: JobState, *steps: int) -> JobState:
    """The job with further checkpoints in the store, each handled by artifact when it came."""
    for step in steps:
        event = written(job, step)
        await house.store.put(event.checkpoint.key, b"state")
        job = await house.happened(job, event)
        sent = replace(envelope(job.id, ACCOUNT, event), version=job.version)
        await prune(house.keeper, sent, event)
    return job


def steps_left(keys: list[str]) -> list[int]:
    found = [re.fullmatch(r"2/checkpoint-(\d+)\.tar", key) for key in keys]
    return sorted(int(match[1]) for match in found if match)


async def test_a_running_job_keeps_its_newest_checkpoints_and_one_more(house: House) -> None:
    job = await checkpointed(house, await house.trained(), *range(60, 160, 10))
    assert [kept.checkpoint.step for kept in job.checkpoints] == [130, 140, 150]
    assert steps_left(await house.keys(job)) == [50, 120, 130, 140, 150]  # 50 was not reported

    again = written(job, 150)
    last = replace(envelope(job.id, ACCOUNT, again), version=job.version)
    await prune(house.keeper, last, again)
    assert steps_left(await house.keys(job)) == [50, 120, 130, 140, 150]


async def test_a_checkpoint_that_another_job_begins_with_is_not_pruned(house: House) -> None:
    job = await checkpointed(house, await house.trained(), 60, 70, 80)
    begins = await house.submitted(start_from=written(job, 60).checkpoint)
    job = await checkpointed(house, job, 90, 100, 110)
    assert steps_left(await house.keys(job)) == [50, 60, 80, 90, 100, 110]

    await house.happened(job, CANCELLED)
    await house.sweep(NOON + LEFTOVERS_GRACE)
    assert steps_left(await house.keys(job)) == [60, 90, 100, 110]
    await house.sweep(NOON + KEPT_FOR + EXPIRY_MARGIN)
    assert steps_left(await house.keys(job)) == [60, 90, 100, 110]
    await house.happened(begins, CANCELLED)
    await house.sweep(NOON + KEPT_FOR + EXPIRY_MARGIN + CLAIM)
    assert await house.keys(job) == []


@pytest.mark.parametrize("end", [FAILED, CANCELLED])
async def test_the_last_checkpoints_of_a_job_without_a_result_stay_for_a_week(
    house: House, end: JobEvent
) -> None:
    job = await house.happened(await checkpointed(house, await house.trained(), 60, 70), end)
    await house.sweep(NOON + KEPT_FOR + EXPIRY_MARGIN - MOMENT)
    assert await house.keys(job) == ["2/checkpoint-60.tar", "2/checkpoint-70.tar"]
    assert job.checkpoints_at(NOON + KEPT_FOR - MOMENT)
    assert not job.checkpoints_at(NOON + KEPT_FOR)
    await house.sweep(NOON + KEPT_FOR + EXPIRY_MARGIN)
    assert await house.keys(job) == []
    assert [reason for reason, *_ in await house.told(job)] == ["ended", "expired"]


async def test_the_last_checkpoints_of_a_completed_job_stay_as_long_as_its_result(
    house: House,
) -> None:
    job = await house.completed(checkpoints=(60, 70))
    await house.sweep(EXPIRY + EXPIRY_MARGIN - MOMENT)
    assert steps_left(await house.keys(job)) == [60, 70]
    assert len(job.checkpoints_at(EXPIRY - MOMENT)) == 2
    await house.sweep(EXPIRY + EXPIRY_MARGIN)
    assert await house.keys(job) == []


async def test_an_adapter_that_another_job_works_on_is_kept_until_that_has_ended(
    house: House,
) -> None:
    job = await house.completed()
    below = ModelSource(kind="local", location="tiny-llama")
    adapter = ModelSource(kind="s3", location=f"jobs/{job.id}/2")
    model = ModelRef(id=job.output_model_id, slug="mine", params=1, source=below, adapter=adapter)
    await house.submitted(model=model)
    await house.sweep(EXPIRY + EXPIRY_MARGIN)
    assert len(await house.keys(job)) == 2


@pytest.mark.parametrize("lives", [1, 2, 3])
async def test_a_deletion_that_dies_anywhere_is_finished_and_told_once_and_whole(
    house: House, lives: int
) -> None:
    job = await house.completed()
    at = NOON + LEFTOVERS_GRACE
    await house.sweep(at)
    house.store.lives = lives  # of three files: the result's two and the data set
    with pytest.raises(StoreUnavailable):
        await house.sweep(EXPIRY + EXPIRY_MARGIN)
    assert len(await house.told(job)) == 1

    assert await house.sweep(EXPIRY + EXPIRY_MARGIN) == 0  # it may still be at work elsewhere
    await house.sweep(EXPIRY + EXPIRY_MARGIN + CLAIM)
    assert await house.keys(job) == []
    assert not await house.has_dataset(job)
    assert await house.told(job) == [("ended", 2, 10), ("expired", 3, 18)]


async def test_replicas_share_the_work_and_tell_of_each_job_once(house: House) -> None:
    jobs = [await house.completed() for _ in range(8)]
    house.clock.now = EXPIRY + EXPIRY_MARGIN
    looked = await asyncio.gather(*(delete_due(house.keeper) for _ in range(4)))
    assert sum(looked) == 8
    for job in jobs:
        assert await house.told(job) == [("ended", 2, 10), ("expired", 3, 18)]


async def test_replicas_at_the_same_job_tell_of_it_once(house: House) -> None:
    job = await house.completed()
    house.clock.now = EXPIRY + EXPIRY_MARGIN
    await asyncio.gather(*(_regardless_of_claims(house) for _ in range(4)))
    assert [reason for reason, *_ in await house.told(job)] == ["ended", "expired"]


async def _regardless_of_claims(house: House) -> None:
    """A replica so slow that its claim was over before it began."""
    keeper = house.keeper
    while await keeper.pool.fetchval(
        "UPDATE artifact.retention SET look_at = '-infinity' WHERE look_at < 'infinity'"
        " RETURNING job_id"
    ):
        await delete_due(keeper)


async def test_rebuild_finds_nothing_to_change_and_brings_back_what_was_lost(
    house: House,
) -> None:
    job = await house.completed()
    await house.trained()
    gone = await house.completed()
    await house.sweep(NOON + LEFTOVERS_GRACE)

    healthy = {done.table: done for done in await rebuild_all(house.admin_dsn)}
    assert (healthy["artifact.retention"].rows, healthy["artifact.retention"].changed) == (2, 0)
    await house.admin.execute("DELETE FROM artifact.retention WHERE job_id = $1", gone.id)
    repaired = {done.table: done.changed for done in await rebuild_all(house.admin_dsn)}
    assert repaired["artifact.retention"] == 1

    await house.sweep(EXPIRY + EXPIRY_MARGIN)
    for each in (job, gone):
        assert await house.keys(each) == []
        assert await house.told(each) == [("ended", 2, 10), ("expired", 3, 18)]


async def test_what_is_deleted_cannot_be_downloaded_and_its_timeline_says_so(
    house: House, fresh_database: Database
) -> None:
    job = await house.completed()
    await house.sweep(EXPIRY + EXPIRY_MARGIN)
    last = moment((await timeline(house.admin, job.id))[-1])
    assert (last.kind, last.ts) == ("artifact.deleted", EXPIRY + EXPIRY_MARGIN)
    assert last.payload == {"reason": "expired", "files": 3, "size_bytes": 18}
    assert not downloadable(job, EXPIRY + EXPIRY_MARGIN)
    async with GroupCommit(partial(connect, fresh_database.dsn("artifact"))) as log:
        desk = Desk(
            pool=house.keeper.pool, log=log, store=house.store, now=house.keeper.now, new_id=uuid4
        )
        answer = await desk.give_downloads(GetDownloads(job_id=job.id, archive=True))
    assert answer == NotPublished()


async def test_the_service_deletes_by_itself(
    house: House, fresh_database: Database, nats_server: Nats, s3: S3Settings, operator: NatsBroker
) -> None:
    job = await house.completed()  # long ago, by the service's clock
    settings = {
        "database_url": fresh_database.dsn("artifact"),
        "nats_url": nats_server.url("artifact"),
        "s3_endpoint": s3.endpoint,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_bucket": s3.bucket,
    }
    async with running("artifact", settings, operator):
        await eventually(partial(house.told, job), lambda told: len(told) == 2)
    assert await house.keys(job) == []


async def test_whoever_ends_a_job_needs_no_right_to_what_is_noted_of_it(
    house: House, fresh_database: Database
) -> None:
    scheduler = await connect(fresh_database.dsn("scheduler"))
    try:
        first, state = first_append(uuid4(), ACCOUNT, submission())
        await append_in(scheduler, first)
        head = Head(stream=job_stream(state.id), version=1, hash=first.records[0].hash)
        ended = records_after(head, [FAILED], context(), job_id=state.id, account_id=ACCOUNT)
        job = row_of(fold(state, FAILED, NOON))
        await append_in(scheduler, Append(records=ended, job=job))
        assert not await scheduler.fetchval("SELECT has_schema_privilege('artifact', 'USAGE')")
    finally:
        await scheduler.close()
    assert await house.admin.fetchval("SELECT job_id FROM artifact.retention") == state.id
