"""The three servers as containers of a Docker engine, as deploy/compose.yaml defines them."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from docker.errors import DockerException
from docker.types import Mount
from testcontainers.core.container import DockerContainer

from deploy.local.program import StackError

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
REFERENCE = re.compile(r"\$(?:\$|\{(\w+)(?::-([^}]*))?[^}]*\})")
PORTS = {"postgres": 5432, "nats": 4222, "s3": 9000}
"""On which each listens in its container."""


def filled(text: str, variables: Mapping[str, str]) -> str:
    """As Compose reads it: ``${NAME}`` by its value, ``${NAME:-DEFAULT}`` by that if it has none,
    ``$$`` is one ``$``."""

    def value(found: re.Match[str]) -> str:
        name, default = found.groups()
        if name is None:
            return "$"
        return variables[name] if default is None else variables.get(name, default)

    return REFERENCE.sub(value, text)


def definition(name: str, port: int, variables: Mapping[str, str]) -> DockerContainer:
    """The container of ``postgres``, ``nats`` or ``s3``, on a loopback port of this machine.

    ``variables`` are those that the service's part of the file refers to. Networks and restarts
    are left out: tests come from outside, and start what they have killed themselves.
    """
    part = SERVICES[name]
    container = DockerContainer(part["image"])
    for variable, value in part["environment"].items():
        container.with_env(variable, filled(value, variables))
    container.with_command([filled(word, variables) for word in part["command"]])
    for place in part["tmpfs"]:
        container.with_tmpfs_mount(place)
    # Docker's own form of it: testcontainers' would listen on every address of this machine.
    container.ports[f"{PORTS[name]}/tcp"] = ("127.0.0.1", port)
    return container.with_kwargs(
        entrypoint=part.get("entrypoint"),
        read_only=part.get("read_only", False),
        cap_drop=part.get("cap_drop"),
        security_opt=part.get("security_opt"),
        stop_signal=part.get("stop_signal"),
        mounts=[mount(volume, variables) for volume in part["volumes"]],
    )


def mount(volume: str | dict[str, Any], variables: Mapping[str, str]) -> Mount:
    """A file of the checkout, or instead of a volume with a name one that ends with its container.
    Compose has a short form for it and a long one."""
    if isinstance(volume, str):
        source, target, *mode = volume.split(":")
        read_only = mode == ["ro"]
    else:
        source, target = filled(volume["source"], variables), volume["target"]
        read_only = volume["read_only"]
    if source.startswith("."):
        file = str((DEPLOY / source).resolve())
        return Mount(target, file, type="bind", read_only=read_only)
    return Mount(target, None)


class Containers:
    """Those of one test session, by name."""

    def __init__(self) -> None:
        self._running: dict[str, DockerContainer] = {}

    async def start(self, name: str, port: int, variables: Mapping[str, str]) -> None:
        """Fetches the image first, if it is not there. `StackError` without an engine."""
        try:
            container = await asyncio.to_thread(definition, name, port, variables)
            self._running[name] = container
            await asyncio.to_thread(container.start)
        except DockerException as error:
            raise StackError(
                f"{name} cannot be started in a container: {error}. Start a Docker engine, or say "
                "by DOCKER_HOST where one is; without TUNEYARD_TEST_SERVERS=containers the tests "
                "need none."
            ) from error

    async def kill(self, name: str) -> None:
        """By SIGKILL, and start it again: an engine restarts nothing that it was told to kill."""
        container = self._running[name].get_wrapped_container()
        await asyncio.to_thread(container.kill)
        await asyncio.to_thread(container.start)

    def log(self, name: str) -> str:
        """What it has written so far."""
        return b"".join(self._running[name].get_logs()).decode(errors="replace")

    async def stop(self) -> None:
        for name in list(self._running):
            await asyncio.to_thread(self._running.pop(name).stop)
