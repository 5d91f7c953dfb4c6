"""Fixtures that every tier may use: the real servers, each started when first asked for."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Generator
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from pathlib import Path
from typing import IO, Any

import pytest

from deploy.local import nats
from deploy.local.s3 import S3Settings
from tests.support.stack import Database, Nats, Postgres, Servers, chosen

# Threads that wait for each other would hold a core that another process of the run needs. It is
# read when torch is loaded, here and in every process that a test starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell has what it runs in the background ignore Ctrl-C, and whatever that starts as well: a test
# that ends a command by it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TOGETHER = "tests/conformance/"
"""A folder that one process takes as a whole: its jobs are trained once for all of it."""

GATE, ROOM = Path(__file__), Path(__file__).with_name("__init__.py")
"""Locked by those who pass and those who are in a test; what stands in them doesn't matter."""

LOOP = pytest.StashKey[asyncio.AbstractEventLoop]()
"""Of all tests of this process, once there was one."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each process one file after the other, in the order of the command line."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # by how many tests a file has
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that is marked ``alone`` runs, with its fixtures, while the other processes of the run
    are in no test."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    alone = item.get_closest_marker("alone")
    loop = item.config.stash.get(LOOP, None)
    with GATE.open() as gate, ROOM.open() as room:
        lock(gate, LOCK_EX, loop)  # whoever waits for the room lets nobody in before it
        lock(room, LOCK_EX if alone else LOCK_SH, loop)
        flock(gate, LOCK_UN)
        try:
            return (yield)
        finally:
            flock(room, LOCK_UN)


def lock(file: IO[str], how: int, loop: asyncio.AbstractEventLoop | None) -> None:
    """Wait, and meanwhile let go on what the module's fixtures have begun: NATS breaks off with
    whoever answers none of its pings for fifteen seconds, and what is said to it next is lost."""
    try:
        flock(file, how | LOCK_NB)
    except BlockingIOError:
        if loop is None:
            flock(file, how)
        else:
            loop.run_until_complete(asyncio.to_thread(flock, file, how))


@pytest.fixture(scope="session", autouse=True)
async def loop_of_all(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    request.config.stash[LOOP] = asyncio.get_running_loop()
    yield
    del request.config.stash[LOOP]


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[Servers]:
    folder = Path(tempfile.mkdtemp(prefix="tuneyard-test-"))
    running = Servers(folder, chosen(os.environ))
    yield running
    await running.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def postgres(servers: Servers) -> Postgres:
    """The PostgreSQL server; ``await postgres.fresh_database()`` for a database of your own."""
    return await servers.postgres()


@pytest.fixture(scope="module")
async def database(postgres: Postgres) -> AsyncIterator[Database]:
    """A migrated database for one test module."""
    fresh = await postgres.fresh_database()
    yield fresh
    await postgres.drop(fresh)


@pytest.fixture
async def fresh_database(postgres: Postgres) -> AsyncIterator[Database]:
    """A migrated database for one test."""
    fresh = await postgres.fresh_database()
    yield fresh
    await postgres.drop(fresh)


@pytest.fixture(scope="session")
async def nats_server(servers: Servers) -> Nats:
    """NATS; ``nats_server.url("billing")`` connects with that service's permissions."""
    return await servers.nats()


@pytest.fixture(scope="session")
async def nats_url(nats_server: Nats) -> str:
    """A NATS user who may do anything."""
    return nats_server.url(nats.OPERATOR)


@pytest.fixture(scope="session")
async def s3(servers: Servers) -> S3Settings:
    """An S3 server with an empty bucket (``s3.bucket``)."""
    return await servers.s3()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of 100,000 parameters, made in a second; it shares nothing with tiny-llama
    but the recipe's form."""
    from tests.support.training import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
