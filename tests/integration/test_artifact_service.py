"""Artifact over the real bus and object store: leased links, verified results, downloads."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import aiohttp
import msgspec
import pytest
from faststream.nats import NatsBroker
from msgspec.structs import replace

from deploy.local.s3 import S3Settings
from libs.bus.rpc import ask
from libs.bus.streams import event_subject
from libs.contracts.artifact import ArtifactEvent, ArtifactPublished, ArtifactRejected
from libs.contracts.artifact_rpc import (
    CHECKPOINTS,
    DOWNLOADS,
    INPUTS,
    UPLOAD_URL,
    Downloads,
    GetCheckpoints,
    GetDownloads,
    GetInputs,
    GetUploadUrl,
    Inputs,
    LeaseLost,
    NotPublished,
    UploadUrl,
)
from libs.contracts.base import ArtifactFile, Envelope, ModelRef, ModelSource
from libs.contracts.events import JobEvent, decode_artifact_event, type_of
from libs.contracts.scheduler import (
    Checkpoint,
    JobCheckpointed,
    JobCompleted,
    JobLeased,
    JobReclaimed,
    JobTrained,
)
from libs.eventlog.connection import Pool, connect, create_pool
from libs.eventlog.groupcommit import GroupCommit
from libs.eventlog.read import Stored, load
from libs.eventlog.record import Append, Head, records_after
from libs.jobstate.state import JobState, fold, job_stream, row_of
from libs.objectstore import ObjectStore
from services.artifact.handlers import Desk
from tests.support.jobs import NOON, context, finished_result, first_append, submission
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually, patient

ACCOUNT = UUID(int=42)
NAMES = {"artifacts.tar.gz": "archive", "adapter_model.safetensors": "adapter"}
SHA_OF_NOTHING = hashlib.sha256().hexdigest()


@pytest.fixture(scope="module")
async def pool(database: Database) -> AsyncIterator[Pool]:
    async with create_pool(database.dsn("artifact"), size=2) as opened:
        yield opened


@pytest.fixture(scope="module")
async def log(database: Database) -> AsyncIterator[GroupCommit]:
    """Writes jobs as the scheduler does."""
    async with GroupCommit(partial(connect, database.dsn("scheduler"))) as writer:
        yield writer


@pytest.fixture(scope="module")
async def service(
    database: Database, nats_server: Nats, s3: S3Settings, operator: NatsBroker
) -> AsyncIterator[None]:
    settings = {
        "database_url": database.dsn("artifact"),
        "nats_url": nats_server.url("artifact"),
        "s3_endpoint": s3.endpoint,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_bucket": s3.bucket,
    }
    async with running("artifact", settings, operator):
        yield


def leased(epoch: int = 1) -> JobLeased:
    return JobLeased(epoch=epoch, trainer_id="trainer-0")


async def recorded(
    log: GroupCommit, *events: JobEvent, job_id: UUID | None = None, **submitted_as: object
) -> JobState:
    """A new job in the log, after these events."""
    append, state = first_append(job_id or uuid4(), ACCOUNT, submission(**submitted_as))
    await log.append(append)
    for event in events:
        head = Head(
            stream=job_stream(state.id), version=state.version, hash=append.records[-1].hash
        )
        state = fold(state, event, NOON)
        append = Append(
            job=row_of(state),
            records=records_after(head, [event], context(), job_id=state.id, account_id=ACCOUNT),
        )
        await log.append(append)
    return state


async def fetched(url: str) -> tuple[int, bytes, str]:
    """Status, body and Content-Disposition of a GET without any credentials."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.read(), answer.headers.get("Content-Disposition", "")


async def uploaded(trainer: NatsBroker, job_id: UUID, epoch: int = 1) -> tuple[ArtifactFile, ...]:
    """Every file of a result, put to its link as a trainer does."""
    files = []
    async with aiohttp.ClientSession() as session:
        for name, role in NAMES.items():
            body = f"{role} of {job_id}".encode()
            request = GetUploadUrl(job_id=job_id, epoch=epoch, name=name, size_bytes=len(body))
            link = await ask(trainer, UPLOAD_URL, request)
            assert isinstance(link, UploadUrl)
            async with session.put(link.url, data=body) as answer:
                assert answer.status == 200
            files.append(
                ArtifactFile(
                    name=name,
                    role=role,
                    key=link.key,
                    size_bytes=len(body),
                    sha256=hashlib.sha256(body).hexdigest(),
                )
            )
    return tuple(files)


async def announce(operator: NatsBroker, job: JobState, files: tuple[ArtifactFile, ...]) -> UUID:
    """Publish job.trained twice, as a relay that died in between would; the event's id."""
    event = JobTrained(epoch=job.epoch, result=finished_result(), files=files)
    envelope = Envelope(
        event_id=uuid4(),
        position=1,
        stream=job_stream(job.id),
        version=3,
        type=type_of(JobTrained),
        job_id=job.id,
        account_id=ACCOUNT,
        occurred_at=NOON,
        causation_id=None,
        traceparent=None,
        data=msgspec.Raw(msgspec.json.encode(event)),
    )
    jetstream = patient(await operator.connect())
    for _ in range(2):
        await jetstream.publish(event_subject(envelope.type, job.id), msgspec.json.encode(envelope))
    return envelope.event_id


async def verdicts(pool: Pool, job_id: UUID) -> list[Stored[ArtifactEvent]]:
    async with pool.acquire() as connection:
        _, events = await load(connection, f"artifact:{job_id}", decode_artifact_event)
    return list(events)


@pytest.mark.usefixtures("service")
async def test_a_leased_attempt_can_fetch_everything_it_needs_and_nothing_else(
    trainer: NatsBroker, log: GroupCommit, store: ObjectStore
) -> None:
    model = ModelRef(
        id=UUID(int=1),
        slug="tiny",
        params=1_000,
        source=ModelSource(kind="s3", location="models/tiny"),
    )
    key = f"jobs/{uuid4()}/1/checkpoint.tar"
    checkpoint = Checkpoint(
        step=50, key=key, sha256=SHA_OF_NOTHING, size_bytes=5, tokens_processed=9
    )
    await store.put("datasets/2", b"rows")
    await store.put(key, b"state")
    await store.put("models/tiny/config.json", b"{}")
    await store.put("models/tiny-other/config.json", b"not asked for")
    job = await recorded(
        log, leased(), JobCheckpointed(epoch=1, checkpoint=checkpoint), model=model
    )

    inputs = await ask(trainer, INPUTS, GetInputs(job_id=job.id, epoch=1))
    assert isinstance(inputs, Inputs)
    assert inputs.dataset_url
    assert inputs.checkpoint_url
    assert (await fetched(inputs.dataset_url))[:2] == (200, b"rows")
    assert (await fetched(inputs.checkpoint_url))[:2] == (200, b"state")
    assert [file.name for file in inputs.model_files] == ["config.json"]
    assert (await fetched(inputs.model_files[0].url))[:2] == (200, b"{}")


def checkpoint_at(step: int, key: str) -> JobCheckpointed:
    return JobCheckpointed(
        epoch=1,
        checkpoint=Checkpoint(
            step=step, key=key, sha256=SHA_OF_NOTHING, size_bytes=5, tokens_processed=step
        ),
    )


@pytest.mark.usefixtures("service")
async def test_an_attempt_gets_an_own_models_result_with_the_hashes_that_were_verified(
    trainer: NatsBroker, log: GroupCommit, store: ObjectStore
) -> None:
    made_by = uuid4()
    folder = f"jobs/{made_by}/1"
    files = []
    for name in ("artifacts.tar.gz", "adapter_model.safetensors", "merged-model.safetensors"):
        await store.put(f"{folder}/{name}", name.encode())
        digest = hashlib.sha256(name.encode()).hexdigest()
        files.append(
            ArtifactFile(
                name=name, role="x", key=f"{folder}/{name}", size_bytes=len(name), sha256=digest
            )
        )
    await store.put(f"{folder}/checkpoint-5.tar", b"no part of the result")
    trained = JobTrained(epoch=1, result=finished_result(), files=tuple(files))
    await recorded(log, leased(), trained, job_id=made_by)
    held_out = replace(submission().dataset, key="datasets/held-out")
    await store.put(held_out.key, b"held out")
    await store.put(f"{folder}/start.tar", b"where to begin")
    job = await recorded(
        log,
        leased(),
        model=ModelRef(
            id=UUID(int=1),
            slug="mine",
            params=1_000,
            source=ModelSource(kind="s3", location=f"{folder}/merged-"),
            adapter=ModelSource(kind="s3", location=folder),
        ),
        validation=held_out,
        start_from=checkpoint_at(5, f"{folder}/start.tar").checkpoint,
    )

    inputs = await ask(trainer, INPUTS, GetInputs(job_id=job.id, epoch=1))

    assert isinstance(inputs, Inputs)
    (merged,) = inputs.model_files
    assert (merged.name, merged.sha256) == ("model.safetensors", files[2].sha256)
    assert (await fetched(merged.url))[:2] == (200, b"merged-model.safetensors")
    assert [(file.name, file.sha256) for file in inputs.adapter_files] == [
        (file.name, file.sha256) for file in files
    ]
    assert inputs.validation_url
    assert inputs.start_from_url
    assert (await fetched(inputs.validation_url))[1] == b"held out"
    assert (await fetched(inputs.start_from_url))[1] == b"where to begin"


@pytest.mark.usefixtures("service")
async def test_the_kept_checkpoints_of_a_job_can_be_downloaded(
    gateway: NatsBroker, log: GroupCommit, store: ObjectStore
) -> None:
    folder = f"jobs/{uuid4()}/1"
    written = [checkpoint_at(step, f"{folder}/checkpoint-{step}.tar") for step in (5, 10, 15, 20)]
    await store.put(f"{folder}/checkpoint-20.tar", b"state")
    job = await recorded(log, leased(), *written)

    found = await ask(gateway, CHECKPOINTS, GetCheckpoints(job_id=job.id))

    assert [link.step for link in found.links] == [20, 15, 10]
    newest = found.links[0]
    assert (newest.tokens_processed, newest.created_at, newest.expires_in) == (20, NOON, 3_600)
    status, body, disposition = await fetched(newest.url)
    assert (status, body) == (200, b"state")
    assert "checkpoint-20.tar" in disposition
    assert (await ask(gateway, CHECKPOINTS, GetCheckpoints(job_id=uuid4()))).links == ()


@pytest.mark.usefixtures("service")
async def test_a_lost_attempt_gets_no_links(trainer: NatsBroker, log: GroupCommit) -> None:
    reclaimed = JobReclaimed(epoch=1, reason="the lease lapsed", retries=1)
    waiting = await recorded(log, leased(1), reclaimed)
    taken = await recorded(log, leased(1), reclaimed, leased(2))
    for job_id in (waiting.id, taken.id, uuid4()):
        link = await ask(
            trainer, UPLOAD_URL, GetUploadUrl(job_id=job_id, epoch=1, name="a", size_bytes=1)
        )
        assert link == LeaseLost()
        assert await ask(trainer, INPUTS, GetInputs(job_id=job_id, epoch=1)) == LeaseLost()
    current = await ask(
        trainer, UPLOAD_URL, GetUploadUrl(job_id=taken.id, epoch=2, name="a", size_bytes=1)
    )
    assert isinstance(current, UploadUrl)


@pytest.mark.usefixtures("service")
async def test_a_result_that_is_what_its_trainer_said_is_published_once(
    operator: NatsBroker, trainer: NatsBroker, log: GroupCommit, pool: Pool
) -> None:
    job = await recorded(log, leased())
    files = await uploaded(trainer, job.id)
    event_id = await announce(operator, job, files)

    (verdict,) = await eventually(lambda: verdicts(pool, job.id), len)
    assert isinstance(verdict.event, ArtifactPublished)
    assert verdict.event.files == files
    assert verdict.event.expires_at == verdict.meta.occurred_at + timedelta(days=7)
    assert verdict.meta.causation_id == event_id


@pytest.mark.usefixtures("service")
async def test_a_file_with_another_hash_or_none_at_all_rejects_the_result(
    operator: NatsBroker, trainer: NatsBroker, log: GroupCommit, pool: Pool
) -> None:
    changed, missing = await recorded(log, leased()), await recorded(log, leased())
    archive, adapter = await uploaded(trainer, changed.id)
    await announce(operator, changed, (archive, replace(adapter, sha256=SHA_OF_NOTHING)))
    archive, adapter = await uploaded(trainer, missing.id)
    await announce(operator, missing, (archive, replace(adapter, key=f"{adapter.key}.other")))

    for job, reason in ((changed, "the trainer named"), (missing, "nothing is stored")):
        (verdict,) = await eventually(partial(verdicts, pool, job.id), len)
        assert isinstance(verdict.event, ArtifactRejected)
        assert reason in verdict.event.reason


@pytest.mark.usefixtures("service")
async def test_a_completed_job_is_downloaded_whole_or_file_by_file(
    operator: NatsBroker, trainer: NatsBroker, gateway: NatsBroker, log: GroupCommit
) -> None:
    lease = await recorded(log, leased())
    files = await uploaded(trainer, lease.id)
    far = NOON + timedelta(days=3_650)
    job = await recorded(
        log,
        leased(),
        JobTrained(epoch=1, result=finished_result(), files=files),
        JobCompleted(tokens_processed=1, artifacts_expires_at=far),
    )

    whole = await ask(gateway, DOWNLOADS, GetDownloads(job_id=job.id, archive=True))
    assert isinstance(whole, Downloads)
    (link,) = whole.links
    status, body, disposition = await fetched(link.url)
    assert (link.name, link.role, link.expires_in) == ("artifacts.tar.gz", "archive", 1_800)
    assert (status, hashlib.sha256(body).hexdigest()) == (200, link.sha256)
    assert "artifacts.tar.gz" in disposition

    parts = await ask(gateway, DOWNLOADS, GetDownloads(job_id=job.id, archive=False))
    assert isinstance(parts, Downloads)
    assert [(part.name, part.expires_in) for part in parts.links] == [
        ("adapter_model.safetensors", 3_600)
    ]
    assert await ask(gateway, DOWNLOADS, GetDownloads(job_id=lease.id, archive=True)) == (
        NotPublished()
    )


async def test_downloads_end_when_the_artifacts_expire(
    log: GroupCommit, pool: Pool, store: ObjectStore
) -> None:
    expiry = NOON + timedelta(days=7)
    job = await recorded(
        log,
        leased(),
        JobTrained(epoch=1, result=finished_result(), files=()),
        JobCompleted(tokens_processed=1, artifacts_expires_at=expiry),
    )
    clock = [expiry - timedelta(seconds=1)]
    desk = Desk(pool=pool, log=log, store=store, now=lambda: clock[0], new_id=uuid4)
    request = GetDownloads(job_id=job.id, archive=False)

    assert await desk.give_downloads(request) == Downloads(links=())
    clock[0] = expiry
    assert await desk.give_downloads(request) == NotPublished()
