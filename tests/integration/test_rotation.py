"""Every secret is changed for another one on real servers, while requests go on."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from msgspec.structs import replace

from deploy.local import nats, postgres, s3
from deploy.local.program import StackError, free_port
from deploy.local.rotation import PARTS, forget_peppers, rotate
from deploy.local.s3 import S3Settings
from deploy.local.state import Secrets, load, load_secrets, lock
from deploy.local.supervisor import Supervisor
from libs.eventlog.migrations import migrate
from libs.objectstore import ObjectStore
from tests.integration.gateway_app import Gateway, running_gateway
from tests.support.objects import store_settings
from tests.support.stack import Database, Nats, Servers
from tests.support.waiting import eventually

NEXT = "thenextone"
FLOODS = 3
AT_ONCE = 40  # more than are served by the connections that are open
STAY_CONNECTED = """
import asyncio, sys
from libs.bus.broker import make_broker

async def main():
    await make_broker(sys.argv[1]).start()
    print("connected", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
USED = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND usename = 'gateway' AND backend_start > $1
"""


@asynccontextmanager
async def going_on(gateway: Gateway, path: str) -> AsyncIterator[Callable[[], int]]:
    """Requests while the body runs, every one of them answered; gives how many were."""
    done, answered = asyncio.Event(), 0

    async def send() -> None:
        nonlocal answered
        while not done.is_set():
            answer = await gateway.client.get(path, headers=gateway.headers)
            assert answer.status_code == 200, answer.text
            answered += 1

    sending = [asyncio.create_task(send()) for _ in range(2)]
    try:
        yield lambda: answered
    finally:
        done.set()
        await asyncio.gather(*sending)


async def some_more(answered: Callable[[], int]) -> None:
    count = answered()

    async def now() -> int:
        return answered()

    await eventually(now, lambda current: current > count + 10)


def with_password(database: Database, password: str) -> Database:
    return replace(database, passwords=database.passwords | {"gateway": password})


async def test_a_roles_password_is_changed_and_a_service_that_was_told_both_opens_connections(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path: Path
) -> None:
    former = database.passwords["gateway"]
    told_both = with_password(database, f"{former},{NEXT}")
    try:
        async with (
            running_gateway(told_both, nats_server, s3, tmp_path) as gateway,
            going_on(gateway, "/v1/jobs") as answered,
        ):
            await some_more(answered)
            await migrate(database.admin_dsn, {"gateway": NEXT})
            changed_at = await gateway.admin.fetchval("SELECT now()")
            for _ in range(FLOODS):
                answers = await asyncio.gather(
                    *(
                        gateway.client.get("/v1/jobs", headers=gateway.headers)
                        for _ in range(AT_ONCE)
                    )
                )
                assert {answer.status_code for answer in answers} == {200}
            assert await gateway.admin.fetchval(USED, changed_at) > 0
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(database.dsn("gateway"))
        restarted = with_password(database, NEXT)
        async with running_gateway(restarted, nats_server, s3, tmp_path) as gateway:
            answer = await gateway.client.get("/v1/jobs", headers=gateway.headers)
            assert answer.status_code == 200
    finally:
        await migrate(database.admin_dsn, {"gateway": former})


async def test_a_nats_users_password_is_changed_and_a_service_that_was_told_both_comes_back(
    database: Database, s3: S3Settings, tmp_path: Path
) -> None:
    servers = Servers(tmp_path)
    try:
        server = await servers.nats()
        former = server.url("gateway")
        both = f"{server.passwords['gateway']},{NEXT}"
        told = replace(server, passwords=server.passwords | {"gateway": both})
        async with (
            running_gateway(database, told, s3, tmp_path / "models") as gateway,
            going_on(gateway, "/v1/webhooks") as answered,  # they are asked for over NATS
        ):
            await some_more(answered)
            knows_one = await connected_process(former)
            nats.write_config(
                tmp_path / "nats",
                port=server.port,
                passwords=server.passwords | {"gateway": NEXT},
                subscribers={},
            )
            os.kill(servers.pid("nats"), signal.SIGTERM)
            await servers.answers_again("nats")
            await some_more(answered)
            async with asyncio.timeout(90):
                assert await knows_one.wait() == 70, "what its supervisor starts again is told more"
        assert not await nats.answers(former)
    finally:
        await servers.stop()


async def connected_process(url: str) -> asyncio.subprocess.Process:
    """A process that stays connected, as a service does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STAY_CONNECTED, url), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    while b"connected" not in await process.stdout.readline():
        assert process.returncode is None
    return process


async def test_links_of_the_former_key_of_the_object_store_are_good_until_it_is_taken_away(
    tmp_path: Path,
) -> None:
    port = free_port()
    former = s3.settings(port=port, access_key="former", secret_key="formersecret")
    current = s3.settings(port=port, access_key="current", secret_key="currentsecret")
    alone = s3.program(tmp_path / "s3", port=port, access_key="current", secret_key="currentsecret")
    both = replace(alone, env={"RCLONE_AUTH_KEY": '"former,formersecret","current,currentsecret"'})
    supervisor = Supervisor(tmp_path, tell=print)

    async def answers() -> bool:
        return await s3.answers(former.endpoint)

    await supervisor.start(both)
    try:
        await eventually(answers, bool)
        links = []
        for one in (former, current):
            async with ObjectStore(store_settings(one)) as store:
                await store.put("a", b"kept")
                links.append(await store.presign_get("a", timedelta(minutes=10)))
        assert await statuses_of(links) == [200, 200]
        await supervisor.stop(["s3"], within_seconds=60)
        await supervisor.start(alone)
        await eventually(answers, bool)
        assert await statuses_of(links) == [403, 200]
    finally:
        await supervisor.stop_all(within_seconds=60)


async def statuses_of(links: list[str]) -> list[int]:
    async with aiohttp.ClientSession() as http:
        return [(await http.get(link)).status for link in links]


async def test_one_command_makes_every_secret_of_a_stopped_machine_anew(tmp_path: Path) -> None:
    before = load_secrets(tmp_path)
    postgres.initialise(tmp_path / "postgres", password=before.postgres_admin)

    rotate(tmp_path, PARTS)
    after = load_secrets(tmp_path)

    assert after.key_pepper_previous == (before.key_pepper,)
    kept = {"account_id", "key_pepper_previous"}
    for field in set(Secrets.__struct_fields__) - kept:
        assert getattr(after, field) != getattr(before, field), field
    for names in ("postgres_roles", "nats_users"):
        former, current = getattr(before, names), getattr(after, names)
        assert former.keys() == current.keys()
        assert not set(former.values()) & set(current.values())
    assert await owners_that_are_let_in(tmp_path, [before, after]) == [False, True]

    forget_peppers(tmp_path)
    forgotten = load(tmp_path / "secrets.json", Secrets)
    assert forgotten == replace(after, key_pepper_previous=())


async def owners_that_are_let_in(folder: Path, known: list[Secrets]) -> list[bool]:
    port = free_port()
    supervisor = Supervisor(folder, tell=print)
    await supervisor.start(postgres.program(folder / "postgres", port=port))
    dsns = [
        postgres.dsn(
            role=postgres.ADMIN, password=one.postgres_admin, port=port, database="postgres"
        )
        for one in known
    ]

    async def answers() -> bool:
        return await postgres.answers(dsns[-1])

    try:
        await eventually(answers, bool)
        return [await let_in(dsn) for dsn in dsns]
    finally:
        await supervisor.stop_all(within_seconds=60)


async def let_in(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn)
    except asyncpg.InvalidPasswordError:
        return False
    await connection.close()
    return True


def test_secrets_of_a_running_stack_are_left_alone(tmp_path: Path) -> None:
    load_secrets(tmp_path)
    held = lock(tmp_path)
    try:
        with pytest.raises(StackError, match="while the stack is stopped"):
            rotate(tmp_path, PARTS)
    finally:
        os.close(held)


def test_where_no_stack_is_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no stack"):
        rotate(tmp_path, PARTS)
    assert list(tmp_path.iterdir()) == []
