"""The embedded servers: what they promise to keep, and whom they refuse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import aioboto3
import aiohttp
import asyncpg
import nats as nats_py
import psutil
import pytest
from botocore.config import Config
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.errors import NotFoundError

from deploy.local import nats
from deploy.local import s3 as s3_server
from deploy.local.s3 import S3Settings
from tests.support.stack import Database, Nats, Servers
from tests.support.waiting import patient

PATIENCE_SECONDS = 60.0


@pytest.fixture
async def own_servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """Servers that a test may kill."""
    servers = Servers(tmp_path)
    yield servers
    await servers.stop()


@asynccontextmanager
async def client_of(server: Nats, user: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """A connection as one user, and what the server refused it."""
    refused: list[str] = []

    async def refuse(error: Exception) -> None:
        refused.append(str(error))

    client = await nats_py.connect(
        server.url(user),
        inbox_prefix=nats.inbox_prefix(user).encode(),
        error_cb=refuse,
        reconnect_time_wait=0.1,
    )
    try:
        yield client, refused
    finally:
        await client.close()


async def answer_to(client: Client, subject: str) -> bytes:
    """Ask until somebody listens: nats-py may send a subscription after a later flush."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(NoRespondersError):
                return (await client.request(subject, b"", timeout=PATIENCE_SECONDS)).data
            await asyncio.sleep(0.01)


async def first_of(lines: list[str]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not lines:  # noqa: ASYNC110 (polled in tests only, for at most the timeout)
            await asyncio.sleep(0.01)


def s3_client(settings: S3Settings) -> Any:
    return aioboto3.Session().client(
        "s3",
        endpoint_url=settings.endpoint,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        region_name="us-east-1",
        config=Config(
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            signature_version="s3v4",
            retries={"max_attempts": 10},
        ),
    )


async def test_postgres_syncs_and_checks_what_it_stores(database: Database) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    names = ("fsync", "synchronous_commit", "data_checksums", "full_page_writes")
    shown = {name: await connection.fetchval(f"SHOW {name}") for name in names}
    await connection.close()
    assert shown == dict.fromkeys(names, "on")


async def test_postgres_lets_nobody_in_without_the_password(database: Database) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(database.dsn("billing").replace(database.passwords["billing"], "x"))


async def test_postgres_keeps_what_was_committed_when_it_is_killed(own_servers: Servers) -> None:
    server = await own_servers.postgres()
    connection = await asyncpg.connect(server.admin_dsn)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")

    await own_servers.kill("postgres")
    await own_servers.answers_again("postgres")

    connection = await asyncpg.connect(server.admin_dsn)
    assert await connection.fetchval("SELECT n FROM kept") == 1
    await connection.close()


async def test_nats_keeps_what_it_acknowledged_when_it_is_killed(own_servers: Servers) -> None:
    server = await own_servers.nats()
    async with client_of(server, nats.OPERATOR) as (client, _):
        jetstream = patient(client)
        await jetstream.add_stream(name="EVENTS", subjects=["events.>"])
        await jetstream.publish("events.job.submitted.v1.x", b"kept")

        await own_servers.kill("nats")
        await own_servers.answers_again("nats")

    async with client_of(server, nats.OPERATOR) as (client, _):
        assert (await patient(client).get_msg("EVENTS", seq=1)).data == b"kept"


def test_nats_acknowledges_only_what_is_on_the_disk(tmp_path: Path) -> None:
    passwords = dict.fromkeys(nats.PERMISSIONS, "x")
    written = nats.config(port=4222, store=tmp_path, passwords=passwords)
    assert "sync_interval: always" in written


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("trainer", "events.job.completed.v1.x"),
        ("trainer", "rpc.billing.reserve"),
        ("trainer", "rpc.artifact.downloads"),
        ("trainer", "$JS.API.STREAM.DELETE.EVENTS"),
        ("gateway", "events.job.submitted.v1.x"),
        ("billing", "reports.finished.x"),
        ("scheduler", "events.job.completed.v1.x"),
        ("webhooks", "$JS.API.STREAM.PURGE.EVENTS"),
        ("telemetry", "$JS.API.CONSUMER.CREATE.REPORTS.spy"),
        ("telemetry", "$JS.API.STREAM.MSG.GET.EVENTS"),
        ("trainer", "live.00000000-0000-0000-0000-000000000000"),
        ("gateway", "live.00000000-0000-0000-0000-000000000000"),
        ("relay", "rpc.scheduler.cancel"),
        ("trainer", "limits.took"),
        ("billing", "limits.spent"),
    ],
)
async def test_a_nats_user_may_not_say_what_is_not_its_business(
    nats_server: Nats, user: str, subject: str
) -> None:
    async with client_of(nats_server, user) as (client, refused):
        await client.publish(subject, b"")
        await first_of(refused)
        assert subject.lower() in refused[0].lower()


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("trainer", "rpc.scheduler.lease"),
        ("gateway", "_INBOX_trainer.>"),
        ("webhooks", "_INBOX.>"),
        ("artifact", "telemetry.>"),
        ("telemetry", "limits.>"),
    ],
)
async def test_a_nats_user_may_not_hear_what_is_meant_for_another(
    nats_server: Nats, user: str, subject: str
) -> None:
    async with client_of(nats_server, user) as (client, refused):
        await client.subscribe(subject)
        await first_of(refused)
        assert subject.lower() in refused[0].lower()


async def test_nats_refuses_a_wrong_password(nats_server: Nats) -> None:
    wrong = nats.url(user="billing", password="x", port=nats_server.port)
    assert not await nats.answers(wrong)


async def test_a_service_answers_requests_and_consumes_its_stream(nats_server: Nats) -> None:
    async with (
        client_of(nats_server, "relay") as (relay, _),
        client_of(nats_server, "gateway") as (gateway, _),
        client_of(nats_server, "billing") as (billing, refused),
    ):
        jetstream = patient(relay)
        try:
            await jetstream.stream_info("EVENTS")
        except NotFoundError:
            await jetstream.add_stream(name="EVENTS", subjects=["events.>"])
        subject = f"events.payment.reserved.v1.{uuid4()}"
        await jetstream.publish(subject, b"event")

        consumer = await patient(billing).pull_subscribe(
            subject, durable="billing-test", stream="EVENTS"
        )
        [message] = await consumer.fetch(1, timeout=PATIENCE_SECONDS)
        await message.ack_sync()

        async def answer(question: Msg) -> None:
            await question.respond(b"answer")

        await billing.subscribe("rpc.billing.test", queue="billing", cb=answer)
        answered = await answer_to(gateway, "rpc.billing.test")

        assert (message.data, answered, refused) == (b"event", b"answer", [])


async def test_an_object_survives_the_kill_of_its_server(own_servers: Servers) -> None:
    settings = await own_servers.s3()
    async with s3_client(settings) as client:
        await client.put_object(Bucket=settings.bucket, Key="a/b", Body=b"kept")
        await own_servers.kill("s3")
        await own_servers.answers_again("s3")
        stored = await client.get_object(Bucket=settings.bucket, Key="a/b")
        assert await stored["Body"].read() == b"kept"


async def test_presigned_urls_upload_and_download_and_cannot_be_changed(s3: S3Settings) -> None:
    where = {"Bucket": s3.bucket, "Key": "presigned/object"}
    async with s3_client(s3) as client, aiohttp.ClientSession() as http:
        put = await client.generate_presigned_url("put_object", Params=where)
        get = await client.generate_presigned_url("get_object", Params=where)
        for body in (b"0123456789", b"overwritten"):
            async with http.put(put, data=body) as answer:
                assert answer.status == 200
            async with http.get(get) as answer:
                assert await answer.read() == body
        async with http.get(get, headers={"Range": "bytes=0-3"}) as answer:
            # rclone says 200 where S3 says 206; the header and the bytes are right.
            assert answer.headers["Content-Range"] == "bytes 0-3/11"
            assert await answer.read() == b"over"
        async with http.get(get.replace("/object?", "/other?")) as answer:
            assert answer.status == 403


async def test_no_server_listens_beyond_this_machine_and_no_password_is_on_a_command_line(
    own_servers: Servers,
) -> None:
    postgres, nats_server = await own_servers.postgres(), await own_servers.nats()
    store = await own_servers.s3()
    addresses = {
        connection.laddr.ip
        for name in ("postgres", "nats", "s3")
        for connection in psutil.Process(own_servers.pid(name)).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}

    lines = [
        " ".join(psutil.Process(own_servers.pid(name)).cmdline())
        for name in ("postgres", "nats", "s3")
    ]
    secrets = (store.secret_key, postgres.admin_password, *nats_server.passwords.values())
    assert not [secret for secret in secrets if any(secret in line for line in lines)]


async def test_what_a_broken_upload_left_is_gone_when_the_store_starts(tmp_path: Path) -> None:
    bucket = tmp_path / "s3" / s3_server.BUCKET
    (bucket / "a").mkdir(parents=True)
    (bucket / "a" / ".rclone_temp_multipart_1").write_bytes(b"half")
    (bucket / "a" / "object").write_bytes(b"whole")

    s3_server.program(tmp_path / "s3", port=1, access_key="a", secret_key="b")

    assert [path.name for path in (bucket / "a").iterdir()] == ["object"]
