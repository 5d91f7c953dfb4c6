"""Trainers that do everything but train, in a process of their own, on one connection to NATS.

They speak what `services.trainer` speaks, over its own link: ask for a lease, beat, ask for inputs
and fetch the data set, report ``started``, publish points and lines, upload a file to S3 under a
presigned URL, report ``finished``. Reads `Trainers` from standard input, says ``ready``, works
until that ends, and prints an `Ended`.
"""

import asyncio
import hashlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from uuid import uuid4

import aiohttp
import msgspec
import uvloop
from msgspec import Struct
from msgspec.structs import replace

from libs.bus.broker import make_broker
from libs.bus.rpc import Unanswered
from libs.bus.streams import logs_subject, metrics_subject
from libs.contracts.artifact_rpc import INPUTS, UPLOAD_URL, GetInputs, GetUploadUrl, LeaseLost
from libs.contracts.base import ArtifactFile
from libs.contracts.results import RunResult
from libs.contracts.scheduler_rpc import HEARTBEAT, LEASE, Heartbeat, LeaseGranted, LeaseRequest
from libs.contracts.training import LogBatch, LogLine, MetricBatch, MetricPoint
from libs.observability.logs import configure_logs
from libs.observability.trace import continued
from services.trainer.attempt import BEAT_SECONDS
from services.trainer.link import Link
from services.trainer.reports import Reports
from services.trainer.tail import RunState
from services.trainer.transfer import LeaseGone, patiently

MEMORY_BYTES = 64 * 2**30
ARCHIVE = "artifacts.tar.gz"
FILE = bytes(range(256)) * 64  # 16 KiB, as small as a toy's adapter
FILE_SHA256 = hashlib.sha256(FILE).hexdigest()
TOKENS_A_STEP = 1_024


class Trainers(Struct, frozen=True, kw_only=True):
    """``count`` of them. A job takes ``work_seconds``, and ``later_seconds`` when ``later_after``
    seconds have passed; it says ``batches`` times ``points`` points, with a line for each batch."""

    nats_url: str
    count: int
    work_seconds: float
    later_seconds: float
    later_after: float
    batches: int
    points: int


class Ended(Struct, frozen=True, kw_only=True):
    """How many jobs they have finished, how many attempts were taken from them, and how many
    questions nobody answered in time."""

    finished: int
    lost: int
    unanswered: int


class Trainer:
    def __init__(self, trainer_id: str, orders: Trainers, link: Link) -> None:
        self._orders = orders
        self._later_at = time.monotonic() + orders.later_after
        self._link = link
        self._request = LeaseRequest(
            trainer_id=trainer_id, instance_id=uuid4(), memory_bytes=MEMORY_BYTES
        )
        self.finished = self.lost = self.unanswered = 0

    async def work(self, told: asyncio.Event) -> None:
        while not told.is_set():
            try:
                answer = await self._link.ask(LEASE, self._request)
            except Unanswered:
                self.unanswered += 1
                continue
            if not isinstance(answer, LeaseGranted):
                continue
            try:
                with continued(answer.traceparent, job_id=str(answer.job_id)):
                    await self._attempt(answer)
                self.finished += 1
            except LeaseGone:
                self.lost += 1
            self._request = replace(
                self._request, last_job_id=answer.job_id, last_epoch=answer.epoch
            )

    async def _attempt(self, lease: LeaseGranted) -> None:
        reports = Reports(lease, self._request.trainer_id, uuid4)
        async with self._beating(lease):
            await self._fetch(lease)
            steps = self._orders.batches * self._orders.points
            state = RunState(
                step=0, steps_total=steps, phase="train", tokens_processed=0, device="cpu"
            )
            await self._link.report(reports.started(state))
            later = time.monotonic() >= self._later_at
            work = self._orders.later_seconds if later else self._orders.work_seconds
            for batch in range(self._orders.batches):
                await asyncio.sleep(work / self._orders.batches)
                await self._tell(lease, batch)
            stored = await self._upload(lease)
            await self._link.report(reports.finished(_result(steps), (stored,)))

    @asynccontextmanager
    async def _beating(self, lease: LeaseGranted) -> AsyncIterator[None]:
        heart = asyncio.create_task(self._beat(lease))
        try:
            yield
        finally:
            heart.cancel()

    async def _beat(self, lease: LeaseGranted) -> None:
        beat = Heartbeat(
            trainer_id=self._request.trainer_id,
            job_id=lease.job_id,
            epoch=lease.epoch,
            step=0,
            tokens_processed=0,
        )
        while True:
            with suppress(Unanswered):
                await self._link.ask(HEARTBEAT, beat)
            await asyncio.sleep(BEAT_SECONDS)

    @patiently
    async def _fetch(self, lease: LeaseGranted) -> None:
        inputs = await self._link.ask(INPUTS, GetInputs(job_id=lease.job_id, epoch=lease.epoch))
        if isinstance(inputs, LeaseLost):
            raise LeaseGone
        assert inputs.dataset_url is not None
        async with self._link.http.get(inputs.dataset_url) as response:
            data = await response.read()
        assert lease.dataset is not None
        assert hashlib.sha256(data).hexdigest() == lease.dataset.sha256

    async def _tell(self, lease: LeaseGranted, batch: int) -> None:
        job_id, epoch, now = lease.job_id, lease.epoch, datetime.now(UTC)
        first = batch * self._orders.points + 1
        points = tuple(_point(first + n, now) for n in range(self._orders.points))
        await self._link.publish(
            metrics_subject(job_id),
            MetricBatch(job_id=job_id, epoch=epoch, points=points),
            f"{job_id}:{epoch}:metrics:{batch}",
        )
        line = LogLine(seq=batch + 1, ts=now, stream="stdout", text=f"step {first}: loss 2.5")
        await self._link.publish(
            logs_subject(job_id),
            LogBatch(job_id=job_id, epoch=epoch, lines=(line,)),
            f"{job_id}:{epoch}:logs:{batch}",
        )

    @patiently
    async def _upload(self, lease: LeaseGranted) -> ArtifactFile:
        request = GetUploadUrl(
            job_id=lease.job_id, epoch=lease.epoch, name=ARCHIVE, size_bytes=len(FILE)
        )
        answer = await self._link.ask(UPLOAD_URL, request)
        if isinstance(answer, LeaseLost):
            raise LeaseGone
        async with self._link.http.put(answer.url, data=FILE) as response:
            assert response.status == 200, await response.text()
        return ArtifactFile(
            name=ARCHIVE,
            role="archive",
            key=answer.key,
            size_bytes=len(FILE),
            sha256=FILE_SHA256,
        )


def _point(step: int, now: datetime) -> MetricPoint:
    return MetricPoint(
        ts=now,
        step=step,
        cycle=0,
        phase="train",
        loss=2.5,
        lr=1e-4,
        throughput=3_000.0,
        vram_gb=0.0,
        grad_norm=1.25,
    )


def _result(steps: int) -> RunResult:
    return RunResult(
        ppl_baseline=40.0,
        ppl_final=20.0,
        ppl_delta_pct=-50.0,
        loss_final=3.0,
        params_before=100,
        params_after=110,
        params_delta=10,
        function_preservation=0.0,
        gpu_seconds=1.0,
        tokens_processed=steps * TOKENS_A_STEP,
        split="validation",
        steps=steps,
        train_loss_final=2.5,
        rows_truncated=0,
        tokens_truncated=0,
        device="cpu",
    )


async def work(orders: Trainers) -> Ended:
    """Until standard input ends, and the attempts that are under way then."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, sys.stdin.buffer.read).add_done_callback(lambda _: told.set())
    broker = make_broker(orders.nats_url)
    connector = aiohttp.TCPConnector(limit=orders.count)
    async with aiohttp.ClientSession(connector=connector) as http:
        jetstream = (await broker.connect()).jetstream()
        link = Link(broker, jetstream, http)
        trainers = [Trainer(f"simulated-{n}", orders, link) for n in range(orders.count)]
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            for trainer in trainers:
                group.create_task(trainer.work(told))
    await broker.stop()
    return Ended(
        finished=sum(trainer.finished for trainer in trainers),
        lost=sum(trainer.lost for trainer in trainers),
        unanswered=sum(trainer.unanswered for trainer in trainers),
    )


if __name__ == "__main__":
    configure_logs("simulated", "error")  # standard output is for the answer alone
    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Trainers)
    print(msgspec.json.encode(uvloop.run(work(asked))).decode())
