"""An object store that hangs while a trainer, whose heart beats on, sends it a file."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from services.trainer.transfer import TROUBLE, make_session

LARGE = 64 * 1024**2  # bytes; more than kernels take for a reader that does not read
SILENCE = 1.0  # seconds, instead of sixty


@pytest.fixture
async def hanging() -> AsyncIterator[str]:
    """The address of a store that accepts connections and reads nothing."""
    connections: set[asyncio.StreamWriter] = set()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/file"
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
                await http.put(hanging, data=file, headers={"Content-Length": str(LARGE)})
    assert isinstance(broken.value, TROUBLE)
