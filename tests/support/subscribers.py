"""An installation of which only NATS runs, with the operator's command as a process of its own."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
from faststream.nats import NatsBroker
from msgspec import Struct

from deploy.local.nats import OPERATOR
from deploy.local.program import free_port
from deploy.local.services import Stack
from deploy.local.state import load_ports, load_secrets
from deploy.local.supervisor import Supervisor
from deploy.local.up import start_nats
from libs.bus.broker import inbox_prefix, make_broker, user_of
from libs.bus.streams import declare_streams, event_subject
from libs.contracts.base import Envelope
from tests.support.waiting import patient

COMMAND_SECONDS = 240.0
STOP_SECONDS = 60.0


class House(Struct, kw_only=True):
    """The operator's broker, and the command ``tuneyard-server subscriber ...``."""

    stack: Stack
    supervisor: Supervisor
    operator: NatsBroker

    async def command(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run,
            [
                *(sys.executable, "-m", "deploy.server", "subscriber", verb),
                *("--data", str(self.stack.folder), *arguments),
            ],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    async def create(self, name: str, *arguments: str) -> str:
        """The address of a new subscriber."""
        done = await self.command("create", name, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    async def publish(self, sent: Envelope) -> None:
        jetstream = patient(await self.operator.connect())
        await jetstream.publish(
            event_subject(sent.type, sent.job_id),
            msgspec.json.encode(sent),
            headers={"Nats-Msg-Id": str(sent.event_id)},
        )

    async def restart(self) -> None:
        """As ``tuneyard-server up`` does after it was stopped."""
        await self.supervisor.stop(["nats"], within_seconds=STOP_SECONDS)
        await start_nats(self.stack, self.supervisor, print)


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="tuneyard-subscribers-"))
    stack = Stack(
        folder=folder,
        secrets=load_secrets(folder),
        ports=load_ports(folder),
        gateway_port=free_port(),
        trainers=1,
    )
    supervisor = Supervisor(folder, print)
    try:
        await start_nats(stack, supervisor, print)
        operator = make_broker(stack.nats_url(OPERATOR))
        await declare_streams(patient(await operator.connect()))
        yield House(stack=stack, supervisor=supervisor, operator=operator)
        await operator.stop()
    finally:
        await supervisor.stop_all(within_seconds=STOP_SECONDS)
        shutil.rmtree(folder)


class Client(Struct, kw_only=True):
    """A connection, and what the server told it that it may not."""

    connection: nats.NATS
    refusals: list[str]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    refusals: list[str] = []

    async def note(error: Exception) -> None:
        refusals.append(str(error))

    connection = await nats.connect(
        url,
        allow_reconnect=False,
        max_reconnect_attempts=1,
        inbox_prefix=inbox_prefix(user_of(url)).encode(),
        error_cb=note,
    )
    yield Client(connection=connection, refusals=refusals)
    await connection.close()
