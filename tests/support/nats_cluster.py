"""A NATS cluster on loopback, with the configuration that Kubernetes gives it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from deploy.containers import NATS_USERS, nats_variable
from deploy.local import nats
from deploy.local.program import free_port, wheel_executable

CONFIGURATION = NATS_USERS.parent
PASSWORDS = {user: f"s{user}" for user in nats.PERMISSIONS}
STOP_SECONDS = 60.0


class Node(Struct, frozen=True, kw_only=True):
    port: int
    monitor: int
    process: asyncio.subprocess.Process

    def url(self, user: str) -> str:
        return nats.url(user=user, password=PASSWORDS[user], port=self.port)


def configured(folder: Path, *, client: int, routes: int, monitor: int) -> Path:
    """The checked-in files, with nothing changed but addresses and folders; the main one."""
    (folder / "data").mkdir(parents=True)
    changes = {
        "0.0.0.0:4222": f"127.0.0.1:{client}",
        "0.0.0.0:6222": f"127.0.0.1:{routes}",
        "0.0.0.0:8222": f"127.0.0.1:{monitor}",
        '"/data"': f'"{folder}/data"',
        "/run/nats": str(folder),
    }
    for file in CONFIGURATION.glob("*.conf"):
        text = file.read_text()
        for from_, to in changes.items():
            text = text.replace(from_, to)
        (folder / file.name).write_text(text)
    return folder / "cluster.conf"


@asynccontextmanager
async def cluster(folder: Path, size: int = 3) -> AsyncIterator[list[Node]]:
    """Yields at once; the servers find each other within a second or two."""
    clients, routes, monitors = ([free_port() for _ in range(size)] for _ in range(3))
    addresses = ", ".join(f'"nats://routes:sroutes@127.0.0.1:{port}"' for port in routes)
    passwords = {nats_variable(user): password for user, password in PASSWORDS.items()}
    nodes = []
    try:
        for number in range(size):
            config = configured(
                folder / str(number),
                client=clients[number],
                routes=routes[number],
                monitor=monitors[number],
            )
            process = await asyncio.create_subprocess_exec(
                wheel_executable("nats-server"),
                "-c",
                str(config),
                env=os.environ
                | passwords
                | {
                    "SERVER_NAME": f"nats-{number}",
                    "ROUTES_PASSWORD": "sroutes",
                    "ROUTES": f"[{addresses}]",
                },
                stderr=asyncio.subprocess.DEVNULL,
            )
            nodes.append(Node(port=clients[number], monitor=monitors[number], process=process))
        yield nodes
    finally:
        for node in nodes:
            if node.process.returncode is None:
                node.process.kill()
        async with asyncio.timeout(STOP_SECONDS):
            await asyncio.gather(*(node.process.wait() for node in nodes))
