"""One program of the stack as data: what runs, with which environment, and how it is ended."""

import asyncio
import os
import shutil
import signal
import socket
import sysconfig
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from random import randrange

from msgspec import Struct

READY_POLL_SECONDS = 0.05
PORTS = range(15_000, 32_768)
"""Below those that Linux (from 32768 on) and macOS (from 49152 on) give to whoever names none: such
a one may be a connection's before the server that it was found for listens on it."""

_turns = count(randrange(len(PORTS)))  # one after the other: none is found twice


class StackError(Exception):
    """One sentence for the operator: what is wrong, and what to do about it."""


class Identity(Struct, frozen=True, kw_only=True):
    """As whom a program runs, if not as its starter: a command prefix, or a uid."""

    prefix: tuple[str, ...] = ()
    user: int | None = None


class Program(Struct, frozen=True, kw_only=True):
    """``env`` is added to a clean environment.

    ``argv`` must stay in the foreground, so that the pid the supervisor sees is the program's.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    stop_signal: signal.Signals = signal.SIGTERM
    identity: Identity = Identity()


def wheel_executable(name: str) -> str:
    """The path of a server that a wheel installed beside Python, or one on the PATH."""
    beside_python = Path(sysconfig.get_path("scripts")) / name
    found = str(beside_python) if beside_python.is_file() else shutil.which(name)
    if found is None:
        raise StackError(
            f"{name} is missing: install the servers of the local stack with `uv sync` "
            "(the extra `local`)."
        )
    return found


def free_port() -> int:
    """A loopback TCP port that nobody listens on at this moment, another one each time."""
    return next(port for turn in _turns if port_is_free(port := PORTS[turn % len(PORTS)]))


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now, as servers do (SO_REUSEADDR)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def clean_environment() -> dict[str, str]:
    """This process's environment without Tuneyard's own settings: no secret is inherited."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TUNEYARD_")}


async def wait_until(
    ready: Callable[[], Awaitable[bool]], *, what: str, log: Path, timeout_seconds: float
) -> None:
    """Ask again and again until ``ready`` says so; `StackError` names the log when time is up."""
    try:
        async with asyncio.timeout(timeout_seconds):
            while not await ready():  # noqa: ASYNC110 (another process cannot set our Event)
                await asyncio.sleep(READY_POLL_SECONDS)
    except TimeoutError:
        raise StackError(
            f"{what} did not answer within {timeout_seconds:.0f} s; its log is {log}."
        ) from None
