"""The operator's commands about messages that a service could not handle."""

import asyncio
import os
from datetime import datetime
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from cyclopts.validators import Number
from msgspec import Struct

from deploy.local.program import StackError
from deploy.operator import HERE, Data, connected, installation, say
from libs.eventlog.connection import Connection
from libs.eventlog.dead_letters import ATTEMPTS, RETRY_EVERY

PATIENCE = 10 * RETRY_EVERY  # seconds without any progress until the operator is told to wait
POLL = 0.2  # seconds

app = App(name="dead-letters", help="Messages that a service could not handle.")

LetterId = Annotated[int, Parameter(validator=Number(gte=1, lte=2**63 - 1))]
Every = Annotated[bool, Parameter(name="--all", help="Every one of them.", negative=())]


class Letter(Struct, frozen=True, kw_only=True):
    """A row of ``log.dead_letter``."""

    id: int
    consumer: str
    subject: str
    payload: bytes
    error: str
    failed_at: datetime
    tries: int
    attempts_left: int

    @property
    def line(self) -> str:
        kind, _, job = self.subject.rpartition(".")
        error = self.error.splitlines()[0] if self.error else ""
        waits = "  to be tried again" if self.attempts_left else ""
        return (
            f"{self.id}  {self.consumer}  {kind} of job {job}  tries {self.tries}"
            f"  {self.failed_at:%Y-%m-%dT%H:%M:%SZ}{waits}  {error}"
        )


@app.command(name="list")
async def list_letters(*, data: Data = HERE) -> None:
    """Show them, oldest first: id, consumer, what and of which job, tries, when, why."""
    async with connected(installation(os.environ, data).dsn) as connection:
        for letter in await _read(connection, None):
            say(letter.line)


@app.command
async def show(letter_id: LetterId, /, *, data: Data = HERE) -> None:
    """Show one of them with its whole error and the message itself."""
    async with connected(installation(os.environ, data).dsn) as connection:
        (letter,) = await _chosen(connection, letter_id, every=False)
    say(f"{letter.line}\nsubject {letter.subject}\n\n{letter.error}\n\n{_shown(letter.payload)}")


@app.command
async def retry(
    letter_id: LetterId | None = None, /, *, every: Every = False, data: Data = HERE
) -> None:
    """Have the consumer that could not handle it try again, and say what came of it."""
    async with connected(installation(os.environ, data).dsn) as connection:
        letters = await _chosen(connection, letter_id, every=every)
        await connection.execute(
            "UPDATE log.dead_letter SET attempts_left = $2 WHERE id = ANY($1)",
            [letter.id for letter in letters],
            ATTEMPTS,
        )
        failed = await _outcome(connection, {letter.id: letter for letter in letters})
    say(f"handled {len(letters) - failed} of {len(letters)}")
    if failed:
        raise StackError("The others stay: `dead-letters show ID` has the whole error.")


@app.command
async def drop(
    letter_id: LetterId | None = None, /, *, every: Every = False, data: Data = HERE
) -> None:
    """Forget it: its consumer will never handle this message."""
    async with connected(installation(os.environ, data).dsn) as connection:
        letters = await _chosen(connection, letter_id, every=every)
        await connection.execute(
            "DELETE FROM log.dead_letter WHERE id = ANY($1)", [letter.id for letter in letters]
        )
    for letter in letters:
        say(f"dropped {letter.line}")


async def _read(connection: Connection, ids: list[int] | None) -> list[Letter]:
    rows = await connection.fetch(
        "SELECT id, consumer, subject, payload, error, failed_at, tries, attempts_left"
        " FROM log.dead_letter WHERE $1::bigint[] IS NULL OR id = ANY($1) ORDER BY id",
        ids,
    )
    return [msgspec.convert(dict(row), Letter) for row in rows]


async def _chosen(connection: Connection, letter_id: int | None, *, every: bool) -> list[Letter]:
    if (letter_id is None) is not every:
        raise StackError("Name one by its id, or take --all of them.")
    letters = await _read(connection, None if letter_id is None else [letter_id])
    if not letters and letter_id is not None:
        raise StackError(f"There is no dead letter {letter_id}: `dead-letters list` shows them.")
    return letters


async def _outcome(connection: Connection, waiting: dict[int, Letter]) -> int:
    """Wait until each was tried, and say so of those that failed again; how many are left.
    `StackError` when nobody tries them."""
    left, loop = 0, asyncio.get_running_loop()
    seen = loop.time()
    while waiting:
        now = {letter.id: letter for letter in await _read(connection, list(waiting))}
        tried = [
            letter
            for letter in waiting.values()
            if letter.id not in now or now[letter.id].failed_at != letter.failed_at
        ]
        for letter in tried:
            del waiting[letter.id]
            if letter.id in now:
                left += 1
                say(f"failed again: {now[letter.id].line}")
        if tried:
            seen = loop.time()
        elif loop.time() - seen > PATIENCE:
            consumers = ", ".join(sorted({letter.consumer for letter in waiting.values()}))
            raise StackError(
                f"{len(waiting)} not tried yet: {consumers} is busy, or its service does not run."
                " They are tried as soon as it does."
            )
        else:
            await asyncio.sleep(POLL)
    return left


def _shown(payload: bytes) -> str:
    """JSON for people; anything else with what can't be printed as escapes."""
    try:
        return msgspec.json.format(payload, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return payload.decode(errors="backslashreplace").encode("unicode_escape").decode()
