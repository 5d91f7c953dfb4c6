"""PostgreSQL behind TLS. The server of the tests is built without it, so here somebody in front of
it takes the handshake, as PostgreSQL's protocol has it ("SSL Session Encryption"), and passes on
what comes of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from msgspec import Struct

from tests.support.stack import Database

SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
CHUNK = 65_536  # bytes


class Front(Struct, kw_only=True):
    """``certificates`` is read for every connection. A front that ``refuses`` TLS passes plain text
    on, to whoever would say it."""

    database: Database
    certificates: Path
    port: int = 0
    refuses: bool = False
    versions: list[str | None] = []
    """What of TLS was agreed on, for every connection that PostgreSQL heard of."""

    def url(self, role: str, ca: Path, host: str = "localhost") -> str:
        """As in deploy/k8s/base."""
        return (
            f"postgresql://{role}:{self.database.passwords[role]}@{host}:{self.port}"
            f"/{self.database.name}?sslmode=verify-full&sslrootcert={ca}"
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
            writer.write(b"N" if self.refuses else b"S")
            if not self.refuses:
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(
                    self.certificates / "tls.crt", self.certificates / "tls.key"
                )
                await writer.start_tls(context)
            if first := await reader.read(CHUNK):
                await self._pass_on(first, reader, writer)
        writer.close()

    async def _pass_on(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        agreed = writer.get_extra_info("ssl_object")
        self.versions.append(agreed.version() if agreed else None)
        back, forth = await asyncio.open_connection("127.0.0.1", self.database.port)
        forth.write(first)
        ways = [asyncio.create_task(pipe(reader, forth)), asyncio.create_task(pipe(back, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        forth.close()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while some := await reader.read(CHUNK):
            writer.write(some)
            await writer.drain()


@asynccontextmanager
async def front_of(
    database: Database, certificates: Path, *, refuses: bool = False
) -> AsyncIterator[Front]:
    front = Front(database=database, certificates=certificates, refuses=refuses)
    async with await asyncio.start_server(front.serve, "127.0.0.1", 0) as listening:
        front.port = listening.sockets[0].getsockname()[1]
        yield front
