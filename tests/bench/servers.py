"""What a benchmark runs on: embedded servers, services and rivals, each a process of its own."""

import asyncio
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from deploy.local.account import ensure_credentials
from deploy.local.postgres import dsn
from deploy.local.program import Program, free_port, wait_until
from deploy.local.services import TINY_LLAMA, Stack, programs
from deploy.local.state import Credentials, load, load_ports, load_secrets
from deploy.local.supervisor import Supervisor
from deploy.local.up import start_nats, start_postgres, start_s3
from libs.eventlog.migrations import migrate
from tests.support.stack import Servers

START_SECONDS = 60.0
STOP_SECONDS = 8.0


@contextmanager
def _folder() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="tuneyard-bench-"))
    parent.chmod(0o755)  # PostgreSQL runs as another user when this one is root
    try:
        (parent / "data").mkdir()
        yield parent / "data"
    finally:
        shutil.rmtree(parent, ignore_errors=True)


@asynccontextmanager
async def embedded_servers() -> AsyncIterator[Servers]:
    """Real PostgreSQL, NATS and S3, each started when asked for, with fsync on."""
    with _folder() as folder:
        servers = Servers(folder)
        try:
            yield servers
        finally:
            await servers.stop()


class Platform:
    """Some services of a local installation, and rivals beside them."""

    def __init__(self, stack: Stack, supervisor: Supervisor) -> None:
        self.stack = stack
        self.supervisor = supervisor
        self._programs: dict[str, Program] = {}

    @property
    def credentials(self) -> Credentials:
        found = load(self.stack.folder / "credentials.json", Credentials)
        assert found is not None
        return found

    def dsn(self, role: str) -> str:
        return dsn(
            role=role,
            password=self.stack.secrets.postgres_roles[role],
            port=self.stack.ports.postgres,
        )

    async def start_rival(self, name: str, *, path: str) -> int:
        """Start a server of `tests.bench.rivals`; its port, once it answers on ``path``."""
        port = free_port()
        argv = (sys.executable, "-m", f"tests.bench.rivals.{name}", str(port))
        env = {"BENCH_DSN": self.dsn("gateway")}
        await self._start(Program(name=name, argv=argv, env=env), f"http://127.0.0.1:{port}{path}")
        return port

    async def start_services(self, names: Collection[str]) -> None:
        for program in programs(self.stack):
            if program.name in names:
                healthz = f"{self.stack.base_url}/v1/healthz" if program.name == "gateway" else None
                await self._start(program, healthz)

    async def start_afresh(self, name: str, port: int) -> None:
        """A new process in place of the old one; it listens, and has answered nothing so far."""
        await self.supervisor.stop([name], within_seconds=STOP_SECONDS)
        await self.supervisor.start(self._programs[name])
        await wait_until(
            lambda: asyncio.to_thread(_listens, port),
            what=name,
            log=self.supervisor.log_file(name),
            timeout_seconds=START_SECONDS,
        )

    async def _start(self, program: Program, url: str | None) -> None:
        self._programs[program.name] = program
        await self.supervisor.start(program)
        if url is not None:
            await wait_until(
                lambda: asyncio.to_thread(_answers, url),
                what=program.name,
                log=self.supervisor.log_file(program.name),
                timeout_seconds=START_SECONDS,
            )


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    """Whether an HTTP server answers; a 404 is an answer."""
    try:
        with urlopen(url, timeout=2):
            return True
    except HTTPError as answer:
        return answer.code < 500
    except (URLError, OSError):
        return False


@asynccontextmanager
async def platform(
    services: Collection[str], observation: Mapping[str, str] | None = None
) -> AsyncIterator[Platform]:
    """A migrated installation with the development account, of which these services run.

    Nobody trains: the base model is a folder that only looks like one.
    """
    with _folder() as folder:
        stack = Stack(
            folder=folder,
            secrets=load_secrets(folder),
            ports=load_ports(folder),
            gateway_port=free_port(),
            trainers=1,
            observation=dict(observation or {}),
        )
        _look_like_a_model(stack.models / TINY_LLAMA)
        supervisor = Supervisor(folder, _complain)
        try:
            await asyncio.gather(
                start_postgres(stack, supervisor, _say_nothing),
                start_nats(stack, supervisor, _say_nothing),
                start_s3(stack, supervisor, _say_nothing),
            )
            await migrate(stack.admin_dsn(), stack.secrets.postgres_roles)
            await ensure_credentials(stack, now=datetime.now(UTC))
            running = Platform(stack, supervisor)
            await running.start_services(services)
            yield running
        finally:
            await supervisor.stop_all(within_seconds=STOP_SECONDS)


def _look_like_a_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")


def _say_nothing(_: str) -> None:
    """A benchmark's output is its table."""


def _complain(line: str) -> None:
    """A program that ends by itself spoils the figures."""
    print(line, file=sys.stderr)
