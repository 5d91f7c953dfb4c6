"""What artifact does: hand out links to a leased attempt, judge results, hand out downloads."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from msgspec import Struct

from libs.bus.consume import durable_name
from libs.contracts.artifact import ArtifactPublished
from libs.contracts.artifact_rpc import (
    CheckpointLink,
    Checkpoints,
    DownloadLink,
    Downloads,
    GetCheckpoints,
    GetDownloads,
    GetInputs,
    GetUploadUrl,
    InputFile,
    Inputs,
    LeaseLost,
    NotPublished,
    UploadUrl,
)
from libs.contracts.base import ArtifactFile, DatasetRef, Envelope, ModelSource
from libs.contracts.events import decode_artifact_event, type_of
from libs.contracts.scheduler import Checkpoint, JobTrained
from libs.eventlog.connection import Pool
from libs.eventlog.groupcommit import GroupCommit
from libs.eventlog.read import load
from libs.eventlog.record import Append, Context, Inbox, VersionConflict, records_after
from libs.jobstate.state import JobState, decode_state
from libs.objectstore import ObjectNotFound, ObjectStore
from libs.observability.metrics import BYTES_PUBLISHED, RESULTS_JUDGED
from libs.observability.spans import span
from libs.observability.trace import traceparent_within
from services.artifact.model import (
    ARCHIVE,
    ARCHIVE_LINK,
    ARCHIVE_NAME,
    FILE_LINK,
    Stored,
    artifact_stream,
    belongs,
    downloadable,
    holds_lease,
    judge,
    upload_key,
)

TRANSFER_LINK = timedelta(hours=1)
"""For a trainer's links: a transfer must begin within it, and may then take as long as it takes."""

CONSUMER = durable_name("artifact", type_of(JobTrained))

logger = structlog.get_logger()


class Desk(Struct, frozen=True, kw_only=True):
    """What the handlers work with; ``now`` is UTC."""

    pool: Pool
    log: GroupCommit
    store: ObjectStore
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]

    async def give_inputs(self, request: GetInputs) -> Inputs | LeaseLost:
        state = await self._job(request.job_id)
        if state is None or not holds_lease(state, request.epoch):
            return LeaseLost()
        return Inputs(
            dataset_url=await self._readable(state.dataset),
            checkpoint_url=await self._readable(state.checkpoint),
            model_files=await self._files_at(state.model.source),
            adapter_files=await self._files_at(state.model.adapter),
            validation_url=await self._readable(state.validation),
            start_from_url=await self._readable(state.start_from),
        )

    async def give_upload_url(self, request: GetUploadUrl) -> UploadUrl | LeaseLost:
        if not holds_lease(await self._job(request.job_id), request.epoch):
            return LeaseLost()
        key = upload_key(request.job_id, request.epoch, request.name)
        return UploadUrl(key=key, url=await self.store.presign_put(key, TRANSFER_LINK))

    async def verify_result(self, envelope: Envelope, event: JobTrained) -> None:
        """Read back every file and append the verdict, once per job."""
        job_id = envelope.job_id
        async with self.pool.acquire() as connection:
            head, verdicts = await load(connection, artifact_stream(job_id), decode_artifact_event)
        if verdicts:
            return
        with span("read result back") as reading:
            found = {
                file.key: stored
                for file in event.files
                if belongs(file.key, job_id) and (stored := await self._stored(file))
            }
            size = sum(stored.size_bytes for stored in found.values())
            reading.set(files=len(found), size_bytes=size)
        now = self.now()
        verdict = judge(job_id, event.files, found, now=now)
        context = Context(
            now=now,
            new_id=self.new_id,
            causation_id=envelope.event_id,
            traceparent=traceparent_within(envelope.traceparent),
        )
        records = records_after(
            head, [verdict], context, job_id=job_id, account_id=envelope.account_id
        )
        inbox = Inbox(consumer=CONSUMER, event_id=envelope.event_id)
        try:
            await self.log.append(Append(records=records, inbox=inbox))
        except VersionConflict:
            logger.info("another replica has judged the result")
            return
        published = isinstance(verdict, ArtifactPublished)
        RESULTS_JUDGED.add(1, {"outcome": "published" if published else "rejected"})
        if published:
            BYTES_PUBLISHED.add(sum(file.size_bytes for file in event.files))
        logger.info("result judged", published=published)

    async def give_downloads(self, request: GetDownloads) -> Downloads | NotPublished:
        state = await self._job(request.job_id)
        if state is None or not downloadable(state, now=self.now()):
            return NotPublished()
        files = [file for file in state.files if (file.role == ARCHIVE) == request.archive]
        return Downloads(links=await self._links(files))

    async def give_checkpoints(self, request: GetCheckpoints) -> Checkpoints:
        state, now = await self._job(request.job_id), self.now()
        links = []
        for kept in state.checkpoints_at(now) if state else ():
            one = kept.checkpoint
            name = f"checkpoint-{one.step}.tar"
            links.append(
                CheckpointLink(
                    step=one.step,
                    tokens_processed=one.tokens_processed,
                    size_bytes=one.size_bytes,
                    sha256=one.sha256,
                    created_at=kept.created_at,
                    url=await self.store.presign_get(one.key, FILE_LINK, filename=name),
                    expires_in=int(FILE_LINK.total_seconds()),
                )
            )
        return Checkpoints(links=tuple(links))

    async def _job(self, job_id: UUID) -> JobState | None:
        state = await self.pool.fetchval("SELECT state FROM log.job WHERE id = $1", job_id)
        return None if state is None else decode_state(state)

    async def _readable(self, stored: DatasetRef | Checkpoint | None) -> str | None:
        return await self._link(stored.key) if stored else None

    async def _link(self, key: str) -> str:
        return await self.store.presign_get(key, TRANSFER_LINK)

    async def _files_at(self, source: ModelSource | None) -> tuple[InputFile, ...]:
        """What lies at an S3 prefix. Of what a job has made, only its result is handed out, and
        each file with the hash that was verified."""
        if source is None or source.kind != "s3":
            return ()
        prefix, maker = source.prefix, source.maker
        found: dict[str, str | None]
        if maker is None:
            found = {key: None async for key in self.store.keys(prefix)}
        else:
            job = await self._job(maker)
            files = job.files if job else ()
            found = {file.key: file.sha256 for file in files if file.key.startswith(prefix)}
        return tuple(
            [
                InputFile(name=key.removeprefix(prefix), url=await self._link(key), sha256=sha256)
                for key, sha256 in found.items()
            ]
        )

    async def _stored(self, file: ArtifactFile) -> Stored | None:
        """Hash the object only when its size is right: a wrong one needs no hash."""
        try:
            size, sha256 = await self.store.checked(file.key, file.size_bytes)
        except ObjectNotFound:
            return None
        return Stored(size_bytes=size, sha256=sha256)

    async def _links(self, files: Sequence[ArtifactFile]) -> tuple[DownloadLink, ...]:
        links = []
        for file in files:
            archive = file.role == ARCHIVE
            lifetime = ARCHIVE_LINK if archive else FILE_LINK
            name = ARCHIVE_NAME if archive else file.name
            links.append(
                DownloadLink(
                    name=name,
                    role=file.role,
                    url=await self.store.presign_get(file.key, lifetime, filename=name),
                    size_bytes=file.size_bytes,
                    sha256=file.sha256,
                    expires_in=int(lifetime.total_seconds()),
                )
            )
        return tuple(links)
