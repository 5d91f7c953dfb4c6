"""Files over presigned URLs: downloads checked by hash, uploads named by it.

A failed transfer begins anew with a fresh URL, for minutes: the object store and artifact may
restart under a running job. URLs are secrets; no message here holds one.
"""

import asyncio
import hashlib
from pathlib import Path

import aiohttp
import stamina

from libs.bus.rpc import Unanswered
from libs.contracts.artifact_rpc import UPLOAD_URL, GetUploadUrl, LeaseLost, UploadUrl
from libs.contracts.base import ArtifactFile
from libs.contracts.scheduler_rpc import LeaseGranted
from libs.observability.spans import span
from libs.silence import sockets_that_end
from services.trainer.link import Link

PATIENCE = 300.0  # seconds over all tries of one transfer
CHUNK = 1024 * 1024  # bytes of a download that are in memory at a time
SILENCE = 60.0  # seconds; an object store that sends, or takes, nothing for so long hangs
CONNECT_SECONDS = 5.0


class LeaseGone(Exception):
    """The attempt belongs to somebody else: end it, report nothing."""


class TransferFailed(Exception):
    """A file did not get through, or is not the one it should be."""


TROUBLE = (TransferFailed, aiohttp.ClientError, OSError, Unanswered)
"""What may pass: worth another try."""

patiently = stamina.retry(
    on=TROUBLE,
    attempts=None,
    timeout=PATIENCE,
    wait_initial=0.2,
    wait_max=5.0,
    wait_jitter=0.2,
)


def make_session(silence: float = SILENCE) -> aiohttp.ClientSession:
    """However large a file is: as long as it gets on, it may take its time. One that does not is
    broken off, or it would wait for ever while the job's heart beats."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence),
        connector=aiohttp.TCPConnector(socket_factory=sockets_that_end(silence)),
    )


async def download(
    http: aiohttp.ClientSession, url: str, target: Path, *, sha256: str | None = None
) -> None:
    """Fetch a file; ``target`` appears whole and verified, or not at all.

    Raises TransferFailed, aiohttp.ClientError or OSError. What is there already is kept.
    """
    if await asyncio.to_thread(target.exists):
        return
    part = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    async with http.get(url) as response:
        if response.status != 200:
            raise TransferFailed(f"{target.name}: the object store answered {response.status}")
        with await asyncio.to_thread(part.open, "wb") as file:
            async for piece in response.content.iter_chunked(CHUNK):
                digest.update(piece)
                await asyncio.to_thread(file.write, piece)
    if sha256 is not None and digest.hexdigest() != sha256:
        raise TransferFailed(f"{target.name}: its SHA-256 is not the one that was recorded")
    part.rename(target)


async def upload(
    link: Link, lease: LeaseGranted, path: Path, *, name: str, role: str
) -> ArtifactFile:
    """Store a file under the attempt's epoch. Raises LeaseGone when that epoch is over."""
    with span(f"upload {role}") as uploading:
        stored = await _upload(link, lease, path, name=name, role=role)
        uploading.set(size_bytes=stored.size_bytes)
        return stored


@patiently
async def _upload(
    link: Link, lease: LeaseGranted, path: Path, *, name: str, role: str
) -> ArtifactFile:
    sha256, size = await asyncio.to_thread(_digest, path)
    request = GetUploadUrl(job_id=lease.job_id, epoch=lease.epoch, name=name, size_bytes=size)
    match await link.ask(UPLOAD_URL, request):
        case LeaseLost():
            raise LeaseGone
        case UploadUrl(key=key, url=url):
            with await asyncio.to_thread(path.open, "rb") as file:
                async with link.http.put(
                    url, data=file, headers={"Content-Length": str(size)}
                ) as response:
                    if response.status not in (200, 201, 204):
                        raise TransferFailed(f"{name}: the object store answered {response.status}")
    return ArtifactFile(name=name, role=role, key=key, size_bytes=size, sha256=sha256)


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()
