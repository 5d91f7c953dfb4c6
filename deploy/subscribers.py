"""The operator's commands about programs of the operator's own that read the job events."""

import re
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from deploy.local import nats, subscribers
from deploy.local.program import StackError
from deploy.operator import HERE, Data, say
from libs.contracts.events import EVENT_CLASSES

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")  # a token of a NATS subject, and of a URL

app = App(name="subscriber", help="Programs of your own that read the job events.")


@app.command
async def create(
    name: str,
    /,
    *,
    types: Annotated[str, Parameter(help="Of these only: job.completed.v1,job.failed.v1")] = "",
    only_print: Annotated[
        bool, Parameter(name="--print", negative=(), help="For a NATS of your own: change nothing.")
    ] = False,
    data: Data = HERE,
) -> None:
    """Let a program read the events, and nothing else; prints its address, this one time."""
    if not NAME.fullmatch(name):
        raise StackError("A name is up to 31 lower-case letters, digits and dashes.")
    wanted = tuple(filter(None, types.split(",")))
    if unknown := [one for one in wanted if one not in EVENT_CLASSES]:
        raise StackError(
            f"There are no events {', '.join(unknown)}: choose from {', '.join(EVENT_CLASSES)}."
        )
    if only_print:
        reader = nats.subscriber(subscribers.user(name), subscribers.new_password())
        say(nats.accounts("    # the users that you have", reader))
        return
    say(await subscribers.add(_absolute(data), name, wanted))


@app.command(name="list")
def list_names(*, data: Data = HERE) -> None:
    """Show the names of the subscribers."""
    for name in subscribers.names(data):
        say(name)


@app.command
async def remove(name: str, /, *, data: Data = HERE) -> None:
    """Let a subscriber read no more, from now on."""
    await subscribers.remove(_absolute(data), name)
    say(f"removed {name}")


def _absolute(data: Path) -> Path:
    return data.resolve()
