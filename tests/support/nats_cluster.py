"""A NATS cluster on loopback, with the configuration that Kubernetes gives it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from deploy.containers import NATS_USERS, nats_variable
from deploy.local import nats
from deploy.local.program import free_port, wheel_executable

CONFIGURATION = NATS_USERS.parent
IN_TLS = CONFIGURATION.parents[1] / "components/tls"
PASSWORDS = {user: f"s{user}" for user in nats.PERMISSIONS}
ROUTES_PASSWORD = "sroutes"
STOP_SECONDS = 60.0


class Node(Struct, kw_only=True):
    """``addresses``: where all servers of the cluster listen to each other."""

    addresses: list[str]
    port: int
    routes: int
    monitor: int
    config: Path
    environment: dict[str, str]
    scheme: str
    process: asyncio.subprocess.Process | None = None

    def url(self, user: str) -> str:
        """Under the name that its certificate has, if it has one."""
        host = "localhost" if self.scheme == "tls" else "127.0.0.1"
        return f"{self.scheme}://{user}:{PASSWORDS[user]}@{host}:{self.port}"

    @property
    def running(self) -> asyncio.subprocess.Process:
        assert self.process is not None
        return self.process

    async def start(self) -> None:
        with self.config.with_name("log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(wheel_executable("nats-server"), "-c", str(self.config)),
                env=os.environ | self.environment,
                stderr=log,
            )

    def log(self) -> str:
        return self.config.with_name("log").read_text()

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(how)
            async with asyncio.timeout(STOP_SECONDS):
                await self.process.wait()


def configured(
    folder: Path, *, client: int, routes: int, monitor: int, certificates: Path | None = None
) -> Path:
    """The checked-in files, with nothing changed but addresses and folders; the main one. With
    ``certificates``, those of the component as well that turns TLS on."""
    (folder / "data").mkdir(parents=True)
    changes = {
        "0.0.0.0:4222": f"127.0.0.1:{client}",
        "0.0.0.0:6222": f"127.0.0.1:{routes}",
        "0.0.0.0:8222": f"127.0.0.1:{monitor}",
        '"/data"': f'"{folder}/data"',
        "/run/nats": str(folder),
        "/etc/nats-tls": str(certificates),
    }
    for place in (CONFIGURATION, *([IN_TLS] if certificates else [])):
        for file in place.glob("*.conf"):
            text = file.read_text()
            for from_, to in changes.items():
                text = text.replace(from_, to)
            (folder / file.name).write_text(text)
    return folder / "cluster.conf"


def prepared(
    folder: Path, number: int, ports: Sequence[Sequence[int]], certificates: Path | None
) -> Node:
    """One server, which does not run yet; ``ports`` are those of all: clients, routes, monitors."""
    clients, routes, monitors = ports
    host = "localhost" if certificates else "127.0.0.1"
    passwords = {nats_variable(user): password for user, password in PASSWORDS.items()}
    node = Node(
        addresses=[f"{host}:{port}" for port in routes],
        port=clients[number],
        routes=routes[number],
        monitor=monitors[number],
        config=configured(
            folder / str(number),
            client=clients[number],
            routes=routes[number],
            monitor=monitors[number],
            certificates=certificates,
        ),
        environment=passwords | {"SERVER_NAME": f"nats-{number}"},
        scheme="tls" if certificates else "nats",
    )
    set_routes_password(node, ROUTES_PASSWORD)
    return node


def set_routes_password(node: Node, password: str, *, asked_for: bool = True) -> None:
    """As its next start will read it: from one Secret, for what it says to the others, and what it
    asks of them unless the line is taken out."""
    routes = [f'"nats://routes:{password}@{address}"' for address in node.addresses]
    node.environment |= {"ROUTES_PASSWORD": password, "ROUTES": f"[{', '.join(routes)}]"}
    lines = (CONFIGURATION / "cluster.conf").read_text().splitlines()
    (asking,) = (line for line in lines if line.strip().startswith("authorization "))
    text = node.config.read_text()
    if not asked_for:
        text = text.replace(asking, "")
    elif asking not in text:
        text = text.replace("cluster {", f"cluster {{\n{asking}")
    node.config.write_text(text)


@asynccontextmanager
async def single(folder: Path, certificates: Path) -> AsyncIterator[Node]:
    """One server, as the small overlay has it, in TLS."""
    node = prepared(folder, 0, [[free_port()] for _ in range(3)], certificates)
    node.config = node.config.with_name("nats.conf")
    try:
        await node.start()
        yield node
    finally:
        await node.end(signal.SIGKILL)


@asynccontextmanager
async def cluster(
    folder: Path, size: int = 3, certificates: Sequence[Path] = ()
) -> AsyncIterator[list[Node]]:
    """Yields at once; the servers find each other within a second or two. In TLS where there are
    ``certificates``, a folder for each."""
    ports = [[free_port() for _ in range(size)] for _ in range(3)]
    nodes = [
        prepared(folder, number, ports, certificates[number] if certificates else None)
        for number in range(size)
    ]
    try:
        for node in nodes:
            await node.start()
        yield nodes
    finally:
        await asyncio.gather(*(node.end(signal.SIGKILL) for node in nodes))
