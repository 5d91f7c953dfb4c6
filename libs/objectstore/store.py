"""One bucket of an S3 server, through aioboto3."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from msgspec import Struct

from libs.objectstore.errors import ObjectNotFound, translated
from libs.objectstore.upload import Upload
from libs.silence import sockets_that_end

CONNECT_SECONDS = 5
# Completing a multipart upload may take a server a while, and it is silent meanwhile.
READ_SECONDS = 60
ATTEMPTS = 3
# Room for every upload and download that one gateway process serves at once.
CONNECTIONS = 64
# Large enough that a download is not bound by Python, small enough to hold many at once.
READ_BYTES = 256 * 1024


class ObjectStoreSettings(Struct, frozen=True, kw_only=True):
    """``endpoint``: a URL without a path, e.g. ``http://127.0.0.1:9000``."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    region: str = "us-east-1"


class StoredObject(Struct, frozen=True, kw_only=True):
    """What a listing says of an object. ``modified_at`` is by the server's clock."""

    key: str
    size_bytes: int
    modified_at: datetime


class ObjectStore:
    """``async with ObjectStore(settings) as store``; every method may raise `StoreUnavailable`."""

    def __init__(self, settings: ObjectStoreSettings, *, silence: float = READ_SECONDS) -> None:
        """A store that takes nothing of what it is sent for ``silence`` seconds has not answered
        in time either."""
        self.bucket = settings.bucket
        self._silence = silence
        self._settings = settings
        self._exit = AsyncExitStack()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        session = aioboto3.Session()
        client = session.client(
            "s3",
            endpoint_url=self._settings.endpoint,
            aws_access_key_id=self._settings.access_key,
            aws_secret_access_key=self._settings.secret_key,
            region_name=self._settings.region,
            config=_client_config(self._silence),
        )
        self._client = await self._exit.enter_async_context(client)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._exit.aclose()

    async def put(self, key: str, data: bytes) -> None:
        """Store an object that fits in memory; an object under the same key is replaced."""
        with translated("store", key):
            await self._client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def upload(self, key: str) -> Upload:
        """Store an object as its bytes arrive; nothing stands under the key until `finish`."""
        return Upload(self._client, self.bucket, key)

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """The object's bytes in pieces. Raises `ObjectNotFound` before the first piece."""
        with translated("read", key):
            answer = await self._client.get_object(Bucket=self.bucket, Key=key)
            async with answer["Body"] as response:
                while piece := await response.content.read(READ_BYTES):
                    yield piece

    async def size(self, key: str) -> int:
        """The object's size in bytes, or `ObjectNotFound`."""
        with translated("look up", key):
            head = await self._client.head_object(Bucket=self.bucket, Key=key)
        return int(head["ContentLength"])

    async def sha256(self, key: str) -> str:
        """The hex SHA-256 of what is really stored, read back in pieces."""
        digest = hashlib.sha256()
        async for piece in self.get(key):
            digest.update(piece)
        return digest.hexdigest()

    async def checked(self, key: str, size_bytes: int) -> tuple[int, str]:
        """The object's size, and its hex SHA-256 if it has ``size_bytes``: another is not read.

        One request, where `size` and `sha256` would be two. Raises `ObjectNotFound`.
        """
        digest = hashlib.sha256()
        with translated("read", key):
            answer = await self._client.get_object(Bucket=self.bucket, Key=key)
            size = int(answer["ContentLength"])
            async with answer["Body"] as response:
                if size != size_bytes:
                    response.close()
                    return size, ""
                while piece := await response.content.read(READ_BYTES):
                    digest.update(piece)
        return size, digest.hexdigest()

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """The keys that begin with ``prefix``, in order."""
        async for item in self.objects(prefix):
            yield item.key

    async def objects(self, prefix: str) -> AsyncIterator[StoredObject]:
        """The objects whose keys begin with ``prefix``, in order."""
        with translated("list", prefix):
            pages = self._client.get_paginator("list_objects_v2")
            async for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    yield StoredObject(
                        key=item["Key"], size_bytes=item["Size"], modified_at=item["LastModified"]
                    )

    async def abort_unfinished(self, prefix: str, before: datetime) -> int:
        """Forget multipart uploads to ``prefix`` that began before then and never ended; how many.

        A server that has no such uploads may say 404, and one that can't list them refuses: there
        a rule of the bucket's own has to do it.
        """
        aborted = 0
        try:
            with translated("list unfinished uploads to", prefix):
                pages = self._client.get_paginator("list_multipart_uploads")
                async for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                    for found in page.get("Uploads", ()):
                        if found["Initiated"] < before:
                            aborted += await self._abort(found["Key"], found["UploadId"])
        except ObjectNotFound:
            return aborted
        return aborted

    async def _abort(self, key: str, upload_id: str) -> bool:
        """False when somebody has ended it meanwhile."""
        try:
            with translated("abort", key):
                await self._client.abort_multipart_upload(
                    Bucket=self.bucket, Key=key, UploadId=upload_id
                )
        except ObjectNotFound:
            return False
        return True

    async def delete(self, key: str) -> None:
        """Remove the object; one that is not there is already removed."""
        try:
            with translated("delete", key):
                await self._client.delete_object(Bucket=self.bucket, Key=key)
        except ObjectNotFound:
            return

    async def presign_get(self, key: str, expires: timedelta, filename: str | None = None) -> str:
        """A URL that anyone may download from until it expires; nothing is asked of the server.

        ``filename`` is what a browser should save it as.
        """
        params = {"Bucket": self.bucket, "Key": key}
        if filename is not None:
            params["ResponseContentDisposition"] = (
                f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
            )
        return await self._presign("get_object", params, expires)

    async def presign_put(self, key: str, expires: timedelta) -> str:
        """A URL that one object can be uploaded to, with a plain PUT, until it expires."""
        return await self._presign("put_object", {"Bucket": self.bucket, "Key": key}, expires)

    async def _presign(self, operation: str, params: dict[str, str], expires: timedelta) -> str:
        url: str = await self._client.generate_presigned_url(
            operation, Params=params, ExpiresIn=int(expires.total_seconds())
        )
        return url


def _client_config(silence: float) -> AioConfig:
    def make_session(*, connector_args: dict[str, Any], **options: Any) -> AIOHTTPSession:
        of_sockets = {"socket_factory": sockets_that_end(silence)}
        return AIOHTTPSession(**options, connector_args=connector_args | of_sockets)

    return AioConfig(
        http_session_cls=make_session,
        signature_version="s3v4",
        s3={
            # The bucket in the path: a local server has no wildcard host name.
            "addressing_style": "path",
            # Hashing each part would stall the event loop; the whole object's SHA-256 is kept
            # beside its key and checked by whoever reads it.
            "payload_signing_enabled": False,
        },
        # botocore's newer default checksums break S3 servers other than AWS's.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
    )
