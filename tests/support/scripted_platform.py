"""The scheduler and artifact as one trainer sees them, answering from a script.

NATS and the object store are real; the leases, verdicts and links are the test's.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
import nats.errors
import nats.js.errors
from faststream.nats import NatsBroker
from nats.js import JetStreamContext

from libs.bus.rpc import answer
from libs.bus.streams import reports_of
from libs.contracts import artifact_rpc, scheduler_rpc
from libs.contracts.base import DatasetRef, ModelRef, ModelSource
from libs.contracts.scheduler import Checkpoint
from libs.contracts.trainer import AnyReport
from libs.contracts.training import FinetuneParams, LogBatch, LogLine, MetricBatch, MetricPoint
from libs.objectstore import ObjectStore
from libs.observability.trace import new_traceparent

LINK = timedelta(minutes=5)
DEADLINE = 120.0  # seconds until a test gives up waiting; generous, for a busy machine

Verdict = Literal["continue", "cancel", "lost"]


class ScriptedPlatform:
    """Grants the leases of ``offers`` in turn, when ``hold`` lets it; remembers every heartbeat."""

    def __init__(self, broker: NatsBroker, jetstream: JetStreamContext, store: ObjectStore) -> None:
        self.store = store
        self.offers: list[scheduler_rpc.LeaseGranted] = []
        self.verdicts: dict[UUID, Verdict] = {}
        self.beats: list[scheduler_rpc.Heartbeat] = []
        self.asked = 0
        self.hold: asyncio.Event | None = None
        self.leases: dict[UUID, scheduler_rpc.LeaseGranted] = {}
        self._granted: dict[UUID, scheduler_rpc.LeaseGranted] = {}
        self._jetstream = jetstream
        answer(broker, scheduler_rpc.LEASE, self._lease)
        answer(broker, scheduler_rpc.HEARTBEAT, self._heartbeat)
        answer(broker, artifact_rpc.INPUTS, self._inputs)
        answer(broker, artifact_rpc.UPLOAD_URL, self._upload_url)

    async def offer(
        self,
        script: str | bytes,
        *,
        steps: int = 20,
        model: str = "tiny-llama",
        checkpoint: Checkpoint | None = None,
        epoch: int = 1,
        **params: Any,
    ) -> scheduler_rpc.LeaseGranted:
        """A job whose data set is ``script``, stored and ready to be leased."""
        data = script.encode() if isinstance(script, str) else script
        dataset = DatasetRef(
            id=uuid4(),
            key=f"datasets/{uuid4()}",
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            rows=1,
            tokens=1,
            kind="text",
        )
        await self.store.put(dataset.key, data)
        fields = {"learning_rate": 1e-3, "seq_len": 64, "batch_size": 4, "checkpoint_every": 10}
        lease = scheduler_rpc.LeaseGranted(
            job_id=uuid4(),
            account_id=uuid4(),
            epoch=epoch,
            lease_seconds=10.0,
            job_type="finetune",
            model=ModelRef(
                id=uuid4(),
                slug="tiny-llama",
                params=1000,
                source=ModelSource(kind="local", location=model),
            ),
            dataset=dataset,
            params=FinetuneParams(steps=steps, **(fields | params)),
            checkpoint=checkpoint,
            traceparent=new_traceparent(),
        )
        return self.grant(lease)

    def grant(self, lease: scheduler_rpc.LeaseGranted) -> scheduler_rpc.LeaseGranted:
        """To whom asks for work next."""
        self.leases[lease.job_id] = lease
        self.offers.append(lease)
        return lease

    async def reports(self, lease: scheduler_rpc.LeaseGranted) -> list[AnyReport]:
        """What stands in the stream about the job, oldest first."""
        decode = msgspec.json.Decoder(AnyReport).decode
        stored = await self._stored("REPORTS", reports_of(lease.job_id))
        found = [decode(data) for data in stored]
        return [report for report in found if report.epoch == lease.epoch]

    async def kinds(self, lease: scheduler_rpc.LeaseGranted) -> list[str]:
        return [type(report).__name__ for report in await self.reports(lease)]

    async def metrics(self, lease: scheduler_rpc.LeaseGranted) -> list[MetricPoint]:
        batches = await self._stored("TELEMETRY", f"telemetry.metrics.{lease.job_id}")
        decode = msgspec.json.Decoder(MetricBatch).decode
        return [point for data in batches for point in decode(data).points]

    async def lines(self, lease: scheduler_rpc.LeaseGranted) -> list[LogLine]:
        batches = await self._stored("TELEMETRY", f"telemetry.logs.{lease.job_id}")
        decode = msgspec.json.Decoder(LogBatch).decode
        return [line for data in batches for line in decode(data).lines]

    async def until(self, lease: scheduler_rpc.LeaseGranted, kind: str) -> list[AnyReport]:
        """The job's reports, as soon as the last one is of this kind."""
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(nats.errors.Error):  # a test may have killed it
                    reports = await self.reports(lease)
                    if reports and type(reports[-1]).__name__ == kind:
                        return reports
                await asyncio.sleep(0.02)

    async def _stored(self, stream: str, subject: str) -> list[bytes]:
        found, seq = [], 1
        while True:
            try:
                message = await self._jetstream.get_msg(stream, seq, subject, next=True)
            except nats.js.errors.NotFoundError:
                return found
            found.append(message.data or b"")
            seq = (message.seq or 0) + 1

    async def _lease(
        self, request: scheduler_rpc.LeaseRequest
    ) -> scheduler_rpc.LeaseGranted | scheduler_rpc.NoWork:
        """As the scheduler does: a lease of which the trainer has not heard is given it again."""
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        before = self._granted.get(request.instance_id)
        if before and (before.job_id, before.epoch) != (request.last_job_id, request.last_epoch):
            return before
        if not self.offers:
            return scheduler_rpc.NoWork(retry_after_seconds=0.05)
        self._granted[request.instance_id] = lease = self.offers.pop(0)
        return lease

    async def _heartbeat(self, beat: scheduler_rpc.Heartbeat) -> scheduler_rpc.HeartbeatAnswer:
        self.beats.append(beat)
        return scheduler_rpc.HeartbeatAnswer(verdict=self.verdicts.get(beat.job_id, "continue"))

    async def _inputs(
        self, request: artifact_rpc.GetInputs
    ) -> artifact_rpc.Inputs | artifact_rpc.LeaseLost:
        lease = self.leases[request.job_id]
        return artifact_rpc.Inputs(
            dataset_url=await self._link(lease.dataset),
            checkpoint_url=await self._link(lease.checkpoint),
            validation_url=await self._link(lease.validation),
            start_from_url=await self._link(lease.start_from),
            adapter_files=await self._files(lease.model.adapter),
            model_files=await self._files(lease.model.source),
        )

    async def _link(self, stored: DatasetRef | Checkpoint | None) -> str | None:
        return await self.store.presign_get(stored.key, LINK) if stored else None

    async def _files(self, source: ModelSource | None) -> tuple[artifact_rpc.InputFile, ...]:
        if source is None or source.kind != "s3":
            return ()
        prefix = f"{source.location}/"
        return tuple(
            [
                artifact_rpc.InputFile(
                    name=key.removeprefix(prefix), url=await self.store.presign_get(key, LINK)
                )
                async for key in self.store.keys(prefix)
            ]
        )

    async def _upload_url(
        self, request: artifact_rpc.GetUploadUrl
    ) -> artifact_rpc.UploadUrl | artifact_rpc.LeaseLost:
        key = f"jobs/{request.job_id}/{request.epoch}/{request.name}"
        return artifact_rpc.UploadUrl(key=key, url=await self.store.presign_put(key, LINK))


def local_model(models_dir: Path, names: Iterable[str] = ("config.json",)) -> None:
    """A folder that passes for the base model ``tiny-llama``."""
    folder = models_dir / "tiny-llama"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")


async def eventually(condition: Callable[[], object], *, seconds: float = DEADLINE) -> None:
    """Wait for something that another process brings about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
