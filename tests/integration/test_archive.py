"""An archive goes on whatever fails beside it, and a restore says what it could not read."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from deploy.local import postgres
from deploy.local.archive import archive, streaming
from deploy.local.backup import take
from deploy.local.copied import Source, keep_secrets, source
from deploy.local.program import StackError
from deploy.local.rotation import rotate
from deploy.local.state import Secrets, load, load_ports, load_secrets, open_folder, save
from deploy.local.supervisor import Supervisor
from deploy.restore import restore
from libs.eventlog.connection import Connection, connect
from tests.support.disaster import jobs_in
from tests.support.waiting import PATIENCE, eventually


def clock() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def running(data: Path) -> AsyncIterator[Source]:
    """The database of a stack, and the files that are copied with it; no service."""
    open_folder(data)
    known, ports = load_secrets(data), load_ports(data)
    folder = data / "postgres"
    await asyncio.to_thread(postgres.initialise, folder, password=known.postgres_admin)
    stack, supervisor = source(data), Supervisor(data, print)
    await supervisor.start(postgres.program(folder, port=ports.postgres))

    async def answers() -> bool:
        return await postgres.answers(stack.dsn)

    try:
        await eventually(answers, bool)
        await postgres.create_database(stack.dsn)
        yield stack
    finally:
        await supervisor.stop_all(within_seconds=60)


@asynccontextmanager
async def archiving(
    stack: Source, target: Path, said: list[str], *, synchronous: bool = False
) -> AsyncIterator["asyncio.Task[None]"]:
    stop = asyncio.Event()
    task = asyncio.create_task(
        archive(stack, target, synchronous=synchronous, stop=stop, say=said.append)
    )

    async def begun() -> bool:
        return task.done() or any("archiving" in line for line in said)

    try:
        await eventually(begun, bool)
        yield task
    finally:
        stop.set()
        await task


@asynccontextmanager
async def owner(stack: Source) -> AsyncIterator[Connection]:
    connection = await connect(stack.dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def test_commits_go_on_while_objects_cannot_be_copied_and_changed_secrets_are_kept(
    tmp_path: Path,
) -> None:
    target, said = tmp_path / "backup", list[str]()
    target.mkdir()
    (target / "objects").write_text("no folder")

    async def complained() -> bool:
        return any("objects" in line for line in said)

    async def kept() -> Secrets | None:
        return load(target / "kept" / "secrets.json", Secrets)

    async with (
        running(tmp_path / "data") as stack,
        archiving(stack, target, said, synchronous=True) as archives,
        owner(stack) as connection,
    ):
        await eventually(complained, bool)
        await connection.execute("CREATE TABLE committed ()", timeout=60)
        changed = replace(stack.secrets, key_pepper="another")
        save(stack.data / "secrets.json", changed)
        await eventually(kept, lambda now: now == changed)
        assert not archives.done()


def test_a_copy_of_the_secrets_that_breaks_off_leaves_the_former_one(tmp_path: Path) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept"
    data.mkdir()
    known = load_secrets(data)
    keep_secrets(data, kept)
    save(data / "secrets.json", replace(known, key_pepper="another"))
    # What is written can't be begun, as on a full disk.
    (kept / f"secrets.json.{os.getpid()}.unfinished").mkdir()

    with pytest.raises(OSError, match="unfinished"):
        keep_secrets(data, kept)

    assert load(kept / "secrets.json", Secrets) == known
    assert (kept / "secrets.json").stat().st_mode & 0o777 == 0o600


async def test_secrets_that_were_changed_before_or_after_the_moment_open_what_is_restored(
    tmp_path: Path,
) -> None:
    data, target, said = tmp_path / "data", tmp_path / "backup", list[str]()
    async with AsyncExitStack() as life:
        async with running(data) as stack:
            await life.enter_async_context(archiving(stack, target, said))
            await take(stack, target, now=clock, say=said.append)
            moment = clock()
            async with owner(stack) as connection:
                await connection.execute("CREATE TABLE later ()")
        rotate(data, ("owner", "roles", "pepper"))
        async with running(data) as stack, owner(stack) as connection:
            await streaming(connection, log=target, within_seconds=PATIENCE)
            await connection.execute("SELECT pg_switch_wal()")
            await connection.execute("CREATE TABLE later_still ()")

    for name, until in (("before", moment), ("now", None)):
        await restore(target, tmp_path / name, until=until, now=clock, say=print)
        known = load(tmp_path / name / "secrets.json", Secrets)
        assert known == load(data / "secrets.json", Secrets)
        assert await jobs_in(tmp_path / name) == set()
    segment = max((target / "wal").glob("0*[0-9A-F]"))
    segment.rename(segment.with_suffix(".away"))
    segment.mkdir()
    with pytest.raises(StackError, match="postgres failed"):
        await restore(target, tmp_path / "less", until=None, now=clock, say=print)
    assert not (tmp_path / "less").exists()


async def test_what_belongs_to_another_history_is_refused_and_no_archive_is_no_silence(
    tmp_path: Path,
) -> None:
    copied, archived, said = tmp_path / "copied", tmp_path / "archived", list[str]()
    never = asyncio.Event()
    async with running(tmp_path / "one") as one, running(tmp_path / "other") as other:
        async with archiving(one, archived, said):
            await take(one, copied, now=clock, say=said.append)
        with pytest.raises(StackError, match="another database"):
            await take(other, archived, now=clock, say=said.append)
        with pytest.raises(StackError, match="another database"):
            async with asyncio.timeout(PATIENCE):
                await archive(other, copied, synchronous=False, stop=never, say=said.append)
        async with owner(other) as connection:
            with pytest.raises(StackError, match="Nothing has come to the archive"):
                await streaming(connection, log=tmp_path / "log", within_seconds=0.2)
