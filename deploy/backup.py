"""The operator's commands for the day on which a machine, or a mistake, takes everything along."""

import asyncio
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from deploy.local.archive import archive
from deploy.local.backup import take
from deploy.local.copied import source
from deploy.local.program import StackError
from deploy.operator import HERE, Data, connected, installation, say
from deploy.rebuild import REBUILD_TIMEOUT
from deploy.restore import restore as restore_stack
from deploy.restored import Restored, take_up_again
from libs.bus.republish import publish_again
from libs.bus.streams import EVENTS_DAYS
from libs.eventlog.connection import connect

Folder = Annotated[Path, Parameter(help="Folder of the backup; better on another machine's disk.")]
Synchronous = Annotated[
    bool, Parameter(help="Acknowledge nothing that isn't in the archive.", negative=())
]
Until = Annotated[str | None, Parameter(help="As of this time (ISO 8601, with its zone).")]
KeptDays = Annotated[int, Parameter(validator=Number(gte=1, lte=EVENTS_DAYS))]

streams = App(name="streams", help="The streams of NATS.")


def clock() -> datetime:
    return datetime.now(UTC)


async def backup_command(folder: Folder, /, *, data: Data = HERE) -> None:
    """Copy the running stack into FOLDER: all that was acknowledged before, and what it needs."""
    await take(source(_absolute(data)), folder, now=clock, say=say)


async def archive_command(
    folder: Folder, /, *, synchronous: Synchronous = False, data: Data = HERE
) -> None:
    """Take along into FOLDER whatever the stack commits, until Ctrl-C."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stack = source(_absolute(data))
    await archive(stack, folder, synchronous=synchronous, stop=stop, say=say)


async def restore_command(folder: Folder, /, *, data: Path, until: Until = None) -> None:
    """Make the new folder --data a stack again, as of --until or of the archive's end."""
    done = await restore_stack(
        _absolute(folder), _absolute(data), until=_time(until), now=clock, say=say
    )
    _tell(done)
    say(f"start it with `tuneyard-server up --data {data}`")


async def restored_command(*, data: Data = HERE) -> None:
    """Make a database that others have restored one that the services may work on.

    To be run while no service runs, and before NATS, which must begin empty, has a relay.
    """
    _tell(await take_up_again(installation(os.environ, data).dsn, now=clock))


@streams.command(name="rebuild")
async def rebuild_streams(*, days: KeptDays = EVENTS_DAYS, data: Data = HERE) -> None:
    """Publish the events of the last days again, after NATS has lost its streams. It keeps no more
    than seven, and what is older, its consumers would take for new."""
    dsn = installation(os.environ, data).dsn
    async with connected(dsn):  # says what to do where nothing answers
        pass
    connection = await connect(dsn, command_timeout=REBUILD_TIMEOUT)
    try:
        again = await publish_again(connection, since=clock() - timedelta(days=days))
    finally:
        await connection.close()
    say(f"{again} events are published again")


def _absolute(folder: Path) -> Path:
    return folder.resolve()


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise StackError(f"{text} is no time: write 2026-03-19T12:00:00Z.") from None
    if when.tzinfo is None:
        raise StackError(f"{text} has no zone: write {text}Z for UTC.")
    return when


def _tell(done: Restored) -> None:
    newest = done.last_event_at
    say(f"newest event: {newest.astimezone(UTC).isoformat() if newest else 'none'}")
    say(f"{done.queued} jobs were taken from their trainers and wait again")
    say(f"{done.published} events are published again")


COMMANDS: dict[str, Callable[..., Any]] = {
    "backup": backup_command,
    "archive": archive_command,
    "restore": restore_command,
    "restored": restored_command,
}
