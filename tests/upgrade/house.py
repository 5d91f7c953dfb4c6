"""Every process of one installation, each place held by one of two releases."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from functools import partial

import msgspec

from deploy.health import healthy
from deploy.local import nats, payments, postgres, s3
from deploy.local.program import Program, free_port, wait_until
from deploy.local.services import MODULES, replica_name
from deploy.local.supervisor import Supervisor
from libs.eventlog.connection import connect
from tests.support.local_stack import LocalStack
from tests.support.release import Release
from tests.support.storm import about

SERVERS = ("postgres", "nats", "s3")
OUTSIDE = ("issuer", "sandbox")  # what the platform is told by others
TRAINER = "trainer"
SERVICES = tuple(name for name in MODULES if name != TRAINER)
PLACES = (0, 1)

LEAVE_SECONDS = 5.0  # as every process promises
SERVER_SECONDS = 60.0
READY_SECONDS = 120.0  # a trainer imports torch, on two cores that train
UNPROBED_SECONDS = 5.0  # a release without probes can't say that a process is ready

JOB_OF_SQL = "SELECT job_id FROM scheduler.lease WHERE trainer_id = $1 LIMIT 1"

Say = Callable[[str], None]


def place(service: str, number: int) -> str:
    """The name of a process, as the local stack has it."""
    return f"{TRAINER}-{number}" if service == TRAINER else replica_name(service, number)


class House:
    """``held`` has the release of each process, ``fell`` what ended without being told to, or did
    not end when it was."""

    def __init__(self, stack: LocalStack, say: Say) -> None:
        self.stack = stack
        self.held: dict[str, Release] = {}
        self.fell: list[str] = []
        self._say = say
        self._supervisor = Supervisor(stack.folder, self._heard)
        self._ports = {place(name, n): free_port() for name in MODULES for n in PLACES}
        self._ports["gateway"] = stack.port
        self._programs: dict[str, dict[str, Program]] = {}

    def _heard(self, line: str) -> None:
        self.fell.append(line)
        self._say(line)

    @property
    def gateways(self) -> list[str]:
        names = [name for name in self.held if name.startswith("gateway")]
        return [f"http://127.0.0.1:{self._ports[name]}" for name in names]

    def describe(self, release: Release) -> None:
        """Have a release say what it runs; NATS's configuration is its from now on."""
        self._programs[release.name] = release.programs(
            self.stack.folder, port=self.stack.port, trainers=len(PLACES)
        )

    async def start_servers(self, release: Release) -> None:
        self.describe(release)
        for name in SERVERS:
            await self._supervisor.start(self._programs[release.name][name])
        ours = about(self.stack)
        answering = {
            "postgres": lambda: postgres.answers(ours.admin_dsn()),
            "nats": lambda: nats.answers(ours.nats_url(nats.OPERATOR)),
            "s3": lambda: s3.answers(ours.s3.endpoint),
        }
        for name in SERVERS:
            await self._until(name, answering[name], SERVER_SECONDS)

    def tell_nats(self) -> None:
        """It reads its configuration again: who may say what."""
        pid = self.stack.pid("nats")
        assert pid is not None
        os.kill(pid, signal.SIGHUP)

    async def fill(self, service: str, number: int, release: Release) -> None:
        """End what is there, and start this release; returns when it is ready."""
        name = place(service, number)
        await self._stop([name])
        program = self._program(service, number, release)
        began = time.monotonic()
        await self._supervisor.start(program)
        if release.has("libs/bus/probe.py") or service == "gateway":
            ready = partial(asyncio.to_thread, healthy, program.env)
            await self._until(name, ready, READY_SECONDS)
        else:
            await asyncio.sleep(UNPROBED_SECONDS)
        self.held[name] = release
        self._say(f"  {name}: {release.name}, ready in {time.monotonic() - began:.1f} s")

    async def job_of(self, trainer: str) -> str | None:
        """The job that a trainer works on, if any."""
        connection = await connect(about(self.stack).admin_dsn())
        try:
            job_id = await connection.fetchval(JOB_OF_SQL, trainer)
        finally:
            await connection.close()
        return None if job_id is None else str(job_id)

    async def empty(self, service: str, number: int) -> None:
        name = place(service, number)
        await self._stop([name])
        del self.held[name]
        self._say(f"  {name}: ended")

    async def replace_outside(self, release: Release) -> None:
        """What stands for the world around, which is of no release."""
        await self._stop(OUTSIDE)
        for name in OUTSIDE:
            await self._supervisor.start(self._programs[release.name][name])
        sandbox = payments.url(about(self.stack).ports.sandbox)
        await self._until("sandbox", lambda: payments.answers(sandbox), SERVER_SECONDS)

    async def stop(self) -> None:
        await self._stop([name for name in self._ports if name in self.held])
        await self._supervisor.stop_all(within_seconds=LEAVE_SECONDS)

    def releases(self, service: str) -> list[Release | None]:
        """In each place of a service."""
        return [self.held.get(place(service, number)) for number in PLACES]

    def _program(self, service: str, number: int, release: Release) -> Program:
        """The description of the only one, at an address of its own."""
        name, described = place(service, number), self._programs[release.name]
        program = described[name if service == TRAINER else service]
        listens = "TUNEYARD_LISTEN" if service == "gateway" else "TUNEYARD_PROBE_LISTEN"
        env = program.env | {listens: f"127.0.0.1:{self._ports[name]}"}
        return msgspec.structs.replace(program, name=name, env=env)

    async def _stop(self, names: list[str] | tuple[str, ...]) -> None:
        await self._supervisor.stop(names, within_seconds=LEAVE_SECONDS)

    async def _until(self, name: str, ready: object, seconds: float) -> None:
        log = self._supervisor.log_file(name)
        await wait_until(ready, what=name, log=log, timeout_seconds=seconds)  # type: ignore[arg-type]
