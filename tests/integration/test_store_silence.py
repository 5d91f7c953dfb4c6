"""An object store that hangs while a file is sent to it, by a trainer whose heart beats on or by
a service."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from libs.objectstore import ObjectStore, ObjectStoreSettings, StoreUnavailable
from services.trainer.transfer import TROUBLE, make_session

LARGE = 64 * 1024**2  # bytes; more than kernels take for a reader that does not read
SILENCE = 1.0  # seconds, instead of sixty


@pytest.fixture
async def hanging() -> AsyncIterator[str]:
    """The address of a store that wants every file, and then reads nothing of it."""
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        for writer in connections:
            writer.transport.abort()


async def test_an_upload_that_does_not_get_on_is_broken_off_to_be_tried_again(
    hanging: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.tar"
    with path.open("wb") as file:
        file.truncate(LARGE)
    async with make_session(silence=SILENCE) as http:
        with path.open("rb") as file, pytest.raises(aiohttp.ClientError) as broken:
            async with asyncio.timeout(60):
                await http.put(f"{hanging}/file", data=file, headers={"Content-Length": str(LARGE)})
    assert isinstance(broken.value, TROUBLE)


async def test_a_service_is_told_that_such_a_store_is_away(hanging: str) -> None:
    settings = ObjectStoreSettings(
        endpoint=hanging, access_key="key", secret_key="secret", bucket="files"
    )
    async with ObjectStore(settings, silence=SILENCE) as store, asyncio.timeout(60):
        with pytest.raises(StoreUnavailable):
            await store.put("file", bytes(LARGE))
