"""A job's way through the house, with a test at both ends: it speaks as the gateway (reserve,
append) and as a trainer (lease, upload, report), each with no more rights than that service has.
"""

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import msgspec
from faststream.nats import NatsBroker
from msgspec import Struct

from deploy.local.account import ensure_credentials
from deploy.local.program import free_port
from deploy.local.services import Stack, environment, programs
from deploy.local.state import load_ports, load_secrets
from deploy.local.supervisor import Supervisor
from deploy.local.up import start_nats, start_postgres, start_s3
from libs.bus.broker import make_broker
from libs.bus.rpc import ask
from libs.bus.streams import report_subject
from libs.contracts import artifact_rpc, billing_rpc, rpc, scheduler_rpc
from libs.contracts.base import ArtifactFile, JobStatus
from libs.contracts.trainer import Finished, Report, Started
from libs.eventlog.connection import Connection, connect
from libs.eventlog.groupcommit import GroupCommit
from libs.eventlog.migrations import migrate
from libs.jobstate.state import ENDED, JobState, decode_state
from tests.support.jobs import finished_result, first_append, submission
from tests.support.waiting import patient

SERVICES = ("billing", "scheduler", "artifact", "webhooks", "telemetry", "relay")
START_SECONDS = 240.0
STOP_SECONDS = 60.0
PATIENCE = 90.0  # seconds for anything that happens by itself
POLL = 0.05
PRICE = 300  # of a run with a small data set


class Platform(Struct, kw_only=True):
    """The gateway's and the trainer's ends; ``sql`` may do anything."""

    stack: Stack
    supervisor: Supervisor
    gateway: NatsBroker
    trainer: NatsBroker
    log: GroupCommit
    sql: Connection
    http: aiohttp.ClientSession

    @property
    def account_id(self) -> UUID:
        return self.stack.secrets.account_id

    async def submit(self, **fields: object) -> UUID:
        """What the gateway does when a run has been validated."""
        job_id = uuid4()
        quote = billing_rpc.Quote(
            account_id=self.account_id,
            surface="runs",
            job_type="finetune",
            model_params=3_000_000,
            dataset_bytes=1_000,
            tokens=102_400,
            lora_rank=32,
            priority=False,
        )
        held = await ask(
            self.gateway, billing_rpc.RESERVE, billing_rpc.Reserve(job_id=job_id, quote=quote)
        )
        assert isinstance(held, billing_rpc.Reserved)
        event = submission(price_cents=held.price.price_cents, **fields)
        append, _ = first_append(job_id, self.account_id, event, datetime.now(UTC))
        await self.log.append(append)
        client = await self.gateway.connect()
        await client.publish("nudge.outbox")
        return job_id

    async def state(self, job_id: UUID) -> JobState:
        return decode_state(
            await self.sql.fetchval("SELECT state FROM log.job WHERE id = $1", job_id)
        )

    async def ended(self, job_id: UUID, status: JobStatus) -> JobState:
        """The job, once it and its payment are settled."""
        async with asyncio.timeout(PATIENCE):
            while (state := await self.state(job_id)).status not in ENDED:  # noqa: ASYNC110
                await asyncio.sleep(POLL)
            while (await self.balance()).reserved_cents:  # noqa: ASYNC110
                await asyncio.sleep(POLL)
        assert state.status == status, state
        return state

    async def balance(self) -> billing_rpc.Balance:
        return await ask(
            self.gateway, billing_rpc.BALANCE, billing_rpc.GetBalance(account_id=self.account_id)
        )

    async def lease(
        self, trainer_id: str, instance_id: UUID | None = None
    ) -> scheduler_rpc.LeaseGranted:
        request = scheduler_rpc.LeaseRequest(
            trainer_id=trainer_id, instance_id=instance_id or uuid4(), memory_bytes=2**34
        )
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = await ask(self.trainer, scheduler_rpc.LEASE, request)
                if isinstance(answer, scheduler_rpc.LeaseGranted):
                    return answer
                await asyncio.sleep(POLL)

    async def heartbeat(
        self, lease: scheduler_rpc.LeaseGranted, trainer_id: str
    ) -> scheduler_rpc.HeartbeatAnswer:
        beat = scheduler_rpc.Heartbeat(
            trainer_id=trainer_id,
            job_id=lease.job_id,
            epoch=lease.epoch,
            step=0,
            tokens_processed=0,
        )
        return await ask(self.trainer, scheduler_rpc.HEARTBEAT, beat)

    async def report(self, report: Report) -> None:
        client = await self.trainer.connect()
        await patient(client).publish(
            report_subject(report),
            msgspec.json.encode(report),
            headers={"Nats-Msg-Id": str(report.report_id)},
        )

    async def upload(
        self, lease: scheduler_rpc.LeaseGranted, name: str, data: bytes, role: str
    ) -> ArtifactFile:
        request = artifact_rpc.GetUploadUrl(
            job_id=lease.job_id, epoch=lease.epoch, name=name, size_bytes=len(data)
        )
        answer = await ask(self.trainer, artifact_rpc.UPLOAD_URL, request)
        assert isinstance(answer, artifact_rpc.UploadUrl)
        async with self.http.put(answer.url, data=data) as stored:
            assert stored.status == 200, await stored.text()
        return ArtifactFile(
            name=name,
            role=role,
            key=answer.key,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )


@asynccontextmanager
async def running_platform(
    *, also: tuple[str, ...] = (), observation: Mapping[str, str] = {}
) -> AsyncIterator[Platform]:
    """Every service but the gateway and the trainer, and those named in ``also``."""
    folder = Path(tempfile.mkdtemp(prefix="tuneyard-flow-"))
    supervisor = Supervisor(folder, print)
    services = (*SERVICES, *also)
    stack = Stack(
        folder=folder,
        secrets=load_secrets(folder),
        ports=load_ports(folder),
        gateway_port=free_port(),
        trainers=1,
        observation=dict(observation),
    )
    try:
        for start in (start_postgres, start_nats, start_s3):
            await start(stack, supervisor, print)
        await migrate(stack.admin_dsn(), stack.secrets.postgres_roles)
        await ensure_credentials(stack, now=datetime.now(UTC))
        for program in programs(stack):
            if program.name in services:
                await supervisor.start(program)
        gateway, trainer = (make_broker(stack.nats_url(user)) for user in ("gateway", "trainer"))
        for broker in (gateway, trainer):
            await broker.connect()
        for service in services:
            await ask(gateway, rpc.ping_of(service), rpc.Ping(), deadline=START_SECONDS)
        as_gateway = environment(stack, "gateway")["TUNEYARD_DATABASE_URL"]
        async with (
            GroupCommit(partial(connect, as_gateway)) as log,
            aiohttp.ClientSession() as http,
        ):
            sql = await connect(stack.admin_dsn())
            yield Platform(
                stack=stack,
                supervisor=supervisor,
                gateway=gateway,
                trainer=trainer,
                log=log,
                sql=sql,
                http=http,
            )
            await sql.close()
        await gateway.stop()
        await trainer.stop()
    finally:
        await supervisor.stop_all(within_seconds=STOP_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def started(
    lease: scheduler_rpc.LeaseGranted, trainer_id: str, resumed_from_step: int = 0
) -> Started:
    return Started(
        report_id=uuid4(),
        job_id=lease.job_id,
        epoch=lease.epoch,
        trainer_id=trainer_id,
        device="cpu",
        steps_total=100,
        resumed_from_step=resumed_from_step,
    )


def finished(lease: scheduler_rpc.LeaseGranted, trainer_id: str, *files: ArtifactFile) -> Finished:
    return Finished(
        report_id=uuid4(),
        job_id=lease.job_id,
        epoch=lease.epoch,
        trainer_id=trainer_id,
        result=finished_result(),
        files=files,
    )
