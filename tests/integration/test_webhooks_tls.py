"""Whom a webhook is told to: only the server whose name the certificate bears."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.local.program import clean_environment

LIFE = timedelta(days=1)
NOT_VALID = "The TLS certificate is not valid for this host."


def certificate(folder: Path, *, ends_in: timedelta) -> Path:
    """Its key is in the same file; it is valid for 127.0.0.1, where it is trusted at all."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    issuer = x509.BasicConstraints(ca=True, path_length=None)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + ends_in - LIFE)
        .not_valid_after(now + ends_in)
        .add_extension(address, critical=False)
        .add_extension(issuer, critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@asynccontextmanager
async def https(certificate: Path, heard: list[bytes]) -> AsyncIterator[int]:
    """The port of a server that says 204; ``heard`` is what reaches it behind the handshake."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("host", "trusted", "ends_in", "answer"),
    [
        ("127.0.0.1", True, LIFE / 2, (204, None)),
        ("127.0.0.1", False, LIFE / 2, (None, NOT_VALID)),  # self-signed, by a stranger
        ("localhost", True, LIFE / 2, (None, NOT_VALID)),  # another's name
        ("127.0.0.1", True, -LIFE / 2, (None, NOT_VALID)),  # expired
    ],
)
async def test_nothing_is_said_to_a_server_that_can_not_prove_who_it_is(
    tmp_path: Path,
    host: str,
    trusted: bool,
    ends_in: timedelta,
    answer: tuple[int | None, str | None],
) -> None:
    path, heard = certificate(tmp_path, ends_in=ends_in), list[bytes]()
    trust = {"SSL_CERT_FILE": str(path)} if trusted else {}
    async with https(path, heard) as port:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.one_webhook", f"https://{host}:{port}/hook"),
            env=clean_environment() | trust,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    reply = msgspec.json.decode(said)
    assert (reply["status_code"], reply["error"]) == answer
    assert len(heard) == (1 if answer[0] else 0)
