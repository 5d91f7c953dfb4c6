"""The operator's commands about programs of the operator's own that read the job events."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from deploy.containers import let_subscribe
from deploy.local import nats, subscribers
from deploy.local.program import StackError
from deploy.operator import HERE, Data, say
from libs.contracts.events import EVENT_CLASSES

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")  # a token of a NATS subject, and of a URL

SERVER = "nats:4222"  # its name in Compose and in Kubernetes
Types = Annotated[str, Parameter(help="Of these only: job.completed.v1,job.failed.v1")]

app = App(name="subscriber", help="Programs of your own that read the job events.")


@app.command
async def create(
    name: str,
    /,
    *,
    types: Types = "",
    only_print: Annotated[
        bool, Parameter(name="--print", negative=(), help="For a NATS of your own: change nothing.")
    ] = False,
    file: Annotated[
        Path | None, Parameter(help="For containers: the subscribers.conf that NATS is given.")
    ] = None,
    server: Annotated[str, Parameter(help="With --file: where subscribers reach NATS.")] = SERVER,
    tls: Annotated[
        bool, Parameter(negative=(), help="With --file: NATS has a certificate there.")
    ] = False,
    data: Data = HERE,
) -> None:
    """Let a program read the events, and nothing else; prints its address, this one time."""
    wanted = _checked(name, types)
    if only_print:
        reader = nats.users_of({subscribers.user(name): subscribers.new_password()})
        say(nats.accounts("    # the users that you have", reader))
        return
    if file is not None:
        password = subscribers.new_password()
        let_subscribe(file, subscribers.user(name), password)
        scheme = "tls" if tls else "nats"
        say(f"{scheme}://{subscribers.user(name)}:{password}@{server}")
        print(
            "Have NATS read its configuration again, and then, with the operator's address in"
            f" TUNEYARD_NATS_URL: tuneyard-server subscriber consumer {name}",
            file=sys.stderr,
        )
        return
    say(await subscribers.add(_absolute(data), name, wanted))


@app.command
async def consumer(name: str, /, *, types: Types = "") -> None:
    """Make the place in the stream of a subscriber that `create --file` has let in, or make it
    anew; TUNEYARD_NATS_URL is the operator's address, and TUNEYARD_NATS_CA the file of the CA that
    signs NATS's certificate, where the address begins with tls://."""
    wanted = _checked(name, types)
    url, ca = _operators_nats()
    await subscribers.make_place(url, subscribers.user(name), wanted, ca=ca)
    say(f"{name} may read: {types or 'every event'}")


@app.command
async def update() -> None:
    """Give every subscriber's place in the stream the settings of this release, as `up` does on
    one machine; each stays where it is. TUNEYARD_NATS_URL and TUNEYARD_NATS_CA as for `consumer`.
    """
    url, ca = _operators_nats()
    for name in await subscribers.update_places(url, ca):
        say(f"updated {name}")


def _operators_nats() -> tuple[str, Path | None]:
    """The operator's address at NATS, and the file of its CA. `StackError` without an address."""
    url, ca = os.environ.get("TUNEYARD_NATS_URL"), os.environ.get("TUNEYARD_NATS_CA")
    if not url:
        raise StackError("Set TUNEYARD_NATS_URL to the operator's address at NATS.")
    return url, Path(ca) if ca is not None else None


def _checked(name: str, types: str) -> tuple[str, ...]:
    """The types; `StackError` for a name or a type that can't be."""
    if not NAME.fullmatch(name):
        raise StackError("A name is up to 31 lower-case letters, digits and dashes.")
    wanted = tuple(filter(None, types.split(",")))
    if unknown := [one for one in wanted if one not in EVENT_CLASSES]:
        raise StackError(
            f"There are no events {', '.join(unknown)}: choose from {', '.join(EVENT_CLASSES)}."
        )
    return wanted


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
