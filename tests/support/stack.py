"""The three real servers under a test session: PostgreSQL, NATS and S3 in one temporary folder, or
in containers."""

import asyncio
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import asyncpg
from msgspec import Struct

from deploy.containers import nats_variable
from deploy.local import nats, postgres, s3
from deploy.local.program import Program, StackError, free_port, wait_until
from deploy.local.supervisor import Supervisor
from libs.eventlog.connection import BROKEN_OFF
from libs.eventlog.migrations import ROLES, migrate
from tests.support.containers import Containers
from tests.support.waiting import eventually

START_SECONDS = 60.0
STOP_SECONDS = 60.0
CUT_SHORT = (*BROKEN_OFF, asyncpg.PostgresConnectionError)
"""What a migration ends with that had no turn for longer than a transaction may pause."""


class Database(Struct, frozen=True, kw_only=True):
    """One migrated database. ``dsn(role)`` connects as a service, ``admin_dsn`` as superuser."""

    name: str
    port: int
    admin_dsn: str
    passwords: dict[str, str]

    def dsn(self, role: str) -> str:
        return postgres.dsn(
            role=role, password=self.passwords[role], port=self.port, database=self.name
        )


class Postgres(Struct, frozen=True, kw_only=True):
    """The server; ``admin_dsn`` is its maintenance database."""

    port: int
    admin_dsn: str
    admin_password: str
    passwords: dict[str, str]

    async def fresh_database(self) -> Database:
        """A new database with every migration applied; drop it with `drop`."""
        name = f"test_{secrets.token_hex(6)}"
        admin_dsn = postgres.dsn(
            role=postgres.ADMIN, password=self.admin_password, port=self.port, database=name
        )

        async def made() -> bool:
            try:
                await postgres.create_database(self.admin_dsn, name)
                await migrate(admin_dsn, self.passwords)
            except CUT_SHORT:
                return False
            return True

        await eventually(made, bool)
        return Database(name=name, port=self.port, admin_dsn=admin_dsn, passwords=self.passwords)

    async def drop(self, database: Database) -> None:
        connection = await asyncpg.connect(self.admin_dsn)
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{database.name}" WITH (FORCE)')
        finally:
            await connection.close()


class Nats(Struct, frozen=True, kw_only=True):
    """The server; ``url(user)`` connects with that service's permissions."""

    port: int
    passwords: dict[str, str]

    def url(self, user: str) -> str:
        return nats.url(user=user, password=self.passwords[user], port=self.port)


SERVERS = "TUNEYARD_TEST_SERVERS"
KINDS = {"embedded": lambda: None, "containers": Containers}


def chosen(environ: Mapping[str, str]) -> Containers | None:
    """Where the servers of the tests run: ``embedded`` unless the environment says otherwise."""
    said = environ.get(SERVERS, "embedded")
    if said not in KINDS:
        raise StackError(f"{SERVERS} is {said!r}: it can be {' or '.join(KINDS)}.")
    return KINDS[said]()


def password() -> str:
    """A letter first: NATS would read 12e4 from its environment as a number."""
    return "s" + secrets.token_hex(8)


class Servers:
    """Starts each server when it is first asked for; all of them end with `stop`."""

    def __init__(self, folder: Path, containers: Containers | None = None) -> None:
        self._folder = folder
        self._containers = containers
        self._supervisor = Supervisor(folder, tell=print)
        self._ready: dict[str, Callable[[], Awaitable[bool]]] = {}

    async def postgres(self) -> Postgres:
        port, of_admin = free_port(), password()
        folder = self._folder / "postgres"
        admin_dsn = postgres.dsn(
            role=postgres.ADMIN, password=of_admin, port=port, database="postgres"
        )

        def program() -> Program:
            postgres.initialise(folder, password=of_admin)
            return postgres.program(folder, port=port)

        variables = {"POSTGRES_PASSWORD": of_admin}
        await self._start("postgres", port, program, variables, lambda: postgres.answers(admin_dsn))
        return Postgres(
            port=port,
            admin_dsn=admin_dsn,
            admin_password=of_admin,
            passwords={role: password() for role in ROLES},
        )

    async def nats(self) -> Nats:
        port = free_port()
        passwords = {user: password() for user in nats.PERMISSIONS}
        server = Nats(port=port, passwords=passwords)
        await self._start(
            "nats",
            port,
            lambda: nats.program(self._folder / "nats", port=port, passwords=passwords),
            {nats_variable(user): passwords[user] for user in passwords},
            lambda: nats.answers(server.url(nats.OPERATOR)),
        )
        return server

    async def s3(self) -> s3.S3Settings:
        keys = {"access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
        port = free_port()
        settings = s3.settings(port=port, **keys)
        await self._start(
            "s3",
            port,
            lambda: s3.program(self._folder / "s3", port=port, **keys),
            {f"S3_{name.upper()}": key for name, key in keys.items()},
            lambda: s3.answers(settings.endpoint),
        )
        return settings

    def pid(self, name: str) -> int:
        """The process of ``postgres``, ``nats`` or ``s3``, which is in no container."""
        return int(self._supervisor.pid_file(name).read_text())

    async def kill(self, name: str) -> None:
        """``kill -9``; it is started again, and ready after `answers_again`."""
        if self._containers:
            await self._containers.kill(name)
        else:
            os.kill(self.pid(name), signal.SIGKILL)

    async def answers_again(self, name: str) -> None:
        """Wait until a server that was killed has been started again and is ready."""
        log = self._supervisor.log_file(name)
        try:
            await wait_until(self._ready[name], what=name, log=log, timeout_seconds=START_SECONDS)
        except StackError:
            if self._containers:
                log.write_text(self._containers.log(name))
            raise

    async def _start(
        self,
        name: str,
        port: int,
        program: Callable[[], Program],
        variables: dict[str, str],
        ready: Callable[[], Awaitable[bool]],
    ) -> None:
        """As a program, or in a container that is told ``variables``."""
        if self._containers:
            await self._containers.start(name, port, variables)
        else:
            await self._supervisor.start(await asyncio.to_thread(program))
        self._ready[name] = ready
        await self.answers_again(name)

    async def stop(self) -> None:
        if self._containers:
            await self._containers.stop()
        await self._supervisor.stop_all(within_seconds=STOP_SECONDS)
