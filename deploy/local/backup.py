"""A copy of the local stack from which it can be made again, elsewhere and as of any moment.

The folder of a backup holds ``base/`` (copies of the database), ``wal/`` (what happened since, as
long as `archive` runs), ``objects/`` (the bucket; nothing is ever removed) and ``kept/`` (secrets).
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from deploy.local import postgres
from deploy.local.archive import archived
from deploy.local.copied import (
    HISTORY_SQL,
    Say,
    Source,
    Taken,
    bucket,
    client,
    connected,
    copy_objects,
    folder_for_postgres,
    keep_secrets,
    refuse_another,
    work_in,
)
from deploy.local.manifest import verify
from deploy.local.program import Identity, Program
from deploy.local.state import save

NAME = "%Y%m%dT%H%M%SZ"
"""Of a copy of the database: when it was begun, in UTC, so that names sort by age."""

COPIER = "pg_basebackup"


async def take(stack: Source, target: Path, *, now: Callable[[], datetime], say: Say) -> None:
    """Copy everything while the stack works. Whatever was acknowledged before the copy of the
    database ended is in it. `StackError` when a part fails; a whole copy shows only at the end.

    Objects are copied before the database and again after it: what the database names was there
    then, and an object that is deleted in between is in the first copy.
    """
    target, supervisor = await work_in(target, "taking", say)
    base = folder_for_postgres(target / "base")
    began = now()
    name = began.strftime(NAME)
    unfinished = base / f"{name}.copying"
    for broken_off in base.glob("*.copying"):
        shutil.rmtree(broken_off)
    async with connected(stack) as connection:
        system: str = await connection.fetchval(HISTORY_SQL)
        refuse_another(target, system)
        keep_secrets(stack.data, target / "kept")
        await copy_objects(supervisor, bucket(stack.data), target / "objects")
        say("objects copied")
        run_as = postgres.identity((base, postgres.binaries()))
        await supervisor.run(_base_backup(stack, unfinished, run_as))
        ended = await connection.fetchval("SELECT clock_timestamp()")
        say("database copied")
        await asyncio.to_thread(verify, unfinished)
        if await archived(connection):
            say("the archive has everything that was acknowledged until now")
    await copy_objects(supervisor, bucket(stack.data), target / "objects")
    await asyncio.to_thread(os.sync)  # rclone leaves that to others
    save(base / f"{name}.json", Taken(began_at=began, ended_at=ended, history=system))
    unfinished.rename(base / name)
    say(f"backup {name} is whole")


def _base_backup(stack: Source, folder: Path, run_as: Identity) -> Program:
    return client(
        *(stack, COPIER, run_as, "--pgdata", str(folder)),
        *("--checkpoint=fast", "--wal-method=stream", "--manifest-checksums=SHA256"),
        known_as=COPIER,
    )
