"""Probes ask one process: whether it turns, and whether it can work."""

import asyncio
import os
import sys
from pathlib import Path

import nats
from faststream.nats import NatsBroker

from deploy.health import healthy
from deploy.local.program import clean_environment, free_port, wheel_executable
from libs.bus.probe import LINE_BYTES, probed
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually


async def status(port: int, request: bytes) -> bytes:
    """The status of the answer; empty where the connection is closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(60):
            answer = await reader.read(64)
    except ConnectionResetError:
        answer = b""
    writer.close()
    return b" ".join(answer.split(b" ")[1:2])


async def test_a_service_is_live_and_ready_and_says_so_to_the_images_health_check(
    operator: NatsBroker, nats_server: Nats, database: Database
) -> None:
    port = free_port()
    settings = {
        "database_url": database.dsn("webhooks"),
        "nats_url": nats_server.url("webhooks"),
        "probe_listen": f"127.0.0.1:{port}",
    }
    async with running("webhooks", settings, operator):

        async def passes() -> bool:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "deploy.health"),
                env=os.environ | {"TUNEYARD_PROBE_LISTEN": settings["probe_listen"]},
            )
            return await process.wait() == 0

        await eventually(passes, bool)
        assert await status(port, b"GET /live HTTP/1.1\r\n\r\n") == b"200"
        assert await status(port, b"GET /ready HTTP/1.1\r\n\r\n") == b"200"
        assert await status(port, b"GET /secrets HTTP/1.1\r\n\r\n") == b"404"
        assert await status(port, b"\n") == b"404"
        assert await status(port, b"x" * 100 * LINE_BYTES) == b""
    assert not healthy({"TUNEYARD_PROBE_LISTEN": settings["probe_listen"]})


async def test_the_relay_is_probed_too_and_leaves_when_it_is_told_to(
    nats_server: Nats, database: Database
) -> None:
    port = free_port()
    environment = {
        "TUNEYARD_DATABASE_URL": database.dsn("relay"),
        "TUNEYARD_NATS_URL": nats_server.url("relay"),
        "TUNEYARD_PROBE_LISTEN": f"127.0.0.1:{port}",
    }
    relay = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.bus.relay", env=clean_environment() | environment
    )
    try:

        async def ready() -> bytes:
            try:
                return await status(port, b"GET /ready HTTP/1.1\r\n")
            except ConnectionRefusedError:
                return b""

        await eventually(ready, lambda code: code == b"200")
        relay.terminate()
        async with asyncio.timeout(60):
            # 0, and not the signal: in a container it would have been ignored.
            assert await relay.wait() == 0
    finally:
        if relay.returncode is None:
            relay.kill()
            await relay.wait()


async def test_without_nats_a_process_lives_but_is_not_ready(tmp_path: Path) -> None:
    server_port, port = free_port(), free_port()
    server = await asyncio.create_subprocess_exec(
        wheel_executable("nats-server"),
        *("-a", "127.0.0.1", "-p", str(server_port), "-sd", str(tmp_path)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    client = nats.NATS()
    try:

        async def connects() -> bool:
            try:
                await client.connect(f"nats://127.0.0.1:{server_port}", error_cb=quiet)
            except (OSError, nats.errors.Error):
                return False
            return True

        await eventually(connects, bool)
        async with probed(f"127.0.0.1:{port}", client):
            assert await status(port, b"GET /ready HTTP/1.1\r\n") == b"200"
            server.kill()
            await server.wait()
            await eventually(
                lambda: status(port, b"GET /ready HTTP/1.1\r\n"), lambda code: code == b"503"
            )
            assert await status(port, b"GET /live HTTP/1.1\r\n") == b"200"
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
        await client.close()


async def quiet(_error: Exception) -> None:
    """A server that is gone is the point here, not something to log."""
