"""Rate limits over several gateways: one limit, however many of them an account asks."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from structlog.testing import capture_logs

from deploy.local.s3 import S3Settings
from libs.bus.rpc import ask as rpc
from libs.contracts.gateway_rpc import KEEP_PLAN, KeepPlan
from services.gateway.access.keys import CACHE_SECONDS, list_keys, revoke_key
from services.gateway.access.shared_limits import PATIENCE
from tests.integration.gateway_app import ROWS, Gateway, bearer, decoded, run_form, running_gateway
from tests.support.stack import Database, Nats, Servers
from tests.support.waiting import eventually, once_of_several

REPLICAS = 3
SLOW = 2 * 60  # requests a minute: a burst of 20, and then two a second
FAST = 30 * 60  # a burst of 300, and then thirty a second
AT_ONCE = 12  # requests under way at a time
UNHEARD = 60  # requests that gateways answer before they have heard of them: a few dozen


@pytest.fixture(scope="module")
async def own_servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    """A NATS that a test may kill."""
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    await servers.stop()


@pytest.fixture(scope="module")
async def own_nats(own_servers: Servers) -> Nats:
    return await own_servers.nats()


@pytest.fixture(scope="module")
async def gateways(
    database: Database, own_nats: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Gateway]]:
    models: Path = tmp_path_factory.mktemp("models")
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_gateway(database, own_nats, s3, models))
            for _ in range(REPLICAS)
        ]


async def ask(gateway: Gateway, headers: dict[str, str]) -> httpx.Response:
    return await gateway.client.get("/v1/webhooks/none", headers=headers)


def remaining(answer: httpx.Response) -> int:
    return int(answer.headers["ratelimit"].split("r=")[1].split(";")[0])


async def account(gateway: Gateway, requests_per_minute: int) -> tuple[UUID, dict[str, str]]:
    """Its id, and the headers of a key."""
    id_, key = await gateway.account(cents=0, requests_per_minute=requests_per_minute)
    return id_, bearer(key)


async def heard(gateways: list[Gateway], account_id: UUID) -> None:
    """Wait until each gateway knows what the account has spent at the others."""

    async def spent() -> set[int]:
        return {one.parts.limiter.spent().get(account_id.int, 0) for one in gateways}

    await eventually(spent, lambda found: len(found) == 1)


@contextmanager
def stopped_clocks(gateways: list[Gateway]) -> Iterator[None]:
    """No bucket fills meanwhile, however long this machine takes."""
    for gateway in gateways:
        gateway.clock.stopped_at = time.monotonic()
    try:
        yield
    finally:
        for gateway in gateways:
            gateway.clock.stopped_at = None


async def test_what_one_gateway_let_pass_is_gone_from_all_of_them(gateways: list[Gateway]) -> None:
    account_id, headers = await account(gateways[0], 2)  # one at once, one more after 30 seconds
    with stopped_clocks(gateways):
        assert (await ask(gateways[0], headers)).status_code == 404
        await heard(gateways, account_id)

        answers = [await ask(gateway, headers) for gateway in gateways]

    assert [answer.status_code for answer in answers] == [429] * REPLICAS
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"default";q=1;w=30'}
    for answer in answers:
        assert answer.headers["retry-after"] == "30"
        assert answer.headers["ratelimit"] == '"default";r=0;t=30'


async def test_sent_alternately_as_many_pass_as_through_one(gateways: list[Gateway]) -> None:
    account_id, headers = await account(gateways[0], SLOW)
    statuses = []

    with stopped_clocks(gateways):
        for number in range(60):
            answer = await ask(gateways[number % REPLICAS], headers)
            statuses.append(answer.status_code)
            await heard(gateways, account_id)

    assert statuses == [404] * 20 + [429] * 40


@pytest.mark.alone  # a message that takes more than a second is given up, and what passed with it
async def test_sent_to_all_at_once_the_burst_is_overshot_by_what_was_not_heard_of_yet(
    gateways: list[Gateway],
) -> None:
    await once_of_several(lambda: the_burst_is_overshot(gateways))


async def the_burst_is_overshot(gateways: list[Gateway]) -> None:
    account_id, headers = await account(gateways[0], FAST)
    wanted = iter(range(900))

    async def send(gateway: Gateway) -> list[int]:
        return [(await ask(gateway, headers)).status_code for _ in wanted]

    with stopped_clocks(gateways):
        sent = await asyncio.gather(*(send(gateways[n % REPLICAS]) for n in range(AT_ONCE)))
        await heard(gateways, account_id)
        spent = {(await ask(gateway, headers)).headers["ratelimit"] for gateway in gateways}

    passed = sum(one == 404 for statuses in sent for one in statuses)
    assert 300 <= passed <= 300 + UNHEARD
    # What passed beyond the burst is owed, and every gateway says so.
    assert spent == {f'"default";r=0;t={-(-passed // 30)}'}


@pytest.mark.alone  # it is answered within a second, or begins without
async def test_a_gateway_that_starts_knows_what_is_spent(
    gateways: list[Gateway], database: Database, own_nats: Nats, s3: S3Settings, tmp_path: Path
) -> None:
    async def one_starts() -> None:
        account_id, headers = await account(gateways[0], 2)
        assert (await ask(gateways[0], headers)).status_code == 404
        async with running_gateway(database, own_nats, s3, tmp_path) as newcomer:
            await it_knows(newcomer, account_id, headers)

    await once_of_several(one_starts)


async def it_knows(newcomer: Gateway, account_id: UUID, headers: dict[str, str]) -> None:
    _, other = await account(newcomer, SLOW)

    async def known() -> bool:
        return account_id.int in newcomer.parts.limiter.spent()

    await eventually(known, bool)
    refused = await ask(newcomer, headers)
    passed = await ask(newcomer, other)

    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 30
    assert remaining(passed) == 19


async def test_a_changed_plan_holds_at_every_gateway_when_what_is_known_of_a_key_is_forgotten(
    gateways: list[Gateway],
) -> None:
    account_id, key = await gateways[0].account(cents=0, requests_per_minute=None)
    for gateway in gateways:
        free = await ask(gateway, bearer(key))
        assert free.headers["ratelimit-policy"] == '"default";q=100;w=10'

    changed = KeepPlan(account_id=account_id, subscription="pro", reading=1)
    await rpc(gateways[0].parts.broker, KEEP_PLAN, changed)

    for gateway in gateways:
        gateway.clock.elapsed += CACHE_SECONDS
        pro = await ask(gateway, bearer(key))
        assert pro.headers["ratelimit-policy"] == '"default";q=2000;w=10'


async def test_an_account_that_is_paused_submits_through_no_gateway_from_then_on(
    gateways: list[Gateway],
) -> None:
    account_id, key = await gateways[0].account(cents=1_000_000)

    async def submit(gateway: Gateway) -> httpx.Response:
        return await gateway.client.post(
            "/api/v1/runs",
            headers=bearer(key),
            data=run_form(),
            files={"dataset": ("a.jsonl", ROWS)},
        )

    assert [(await submit(one)).status_code for one in gateways] == [201] * REPLICAS

    await gateways[0].admin.execute(
        "INSERT INTO billing.account (account_id, paused_reason) VALUES ($1, 'fraud')"
        " ON CONFLICT (account_id) DO UPDATE SET paused_reason = 'fraud'",
        account_id,
    )

    refused = [await submit(gateway) for gateway in gateways]
    assert {answer.status_code for answer in refused} == {402}
    assert {decoded(answer)["error"]["code"] for answer in refused} == {"payment_required"}


async def test_a_key_that_the_operator_takes_back_is_refused_by_every_gateway(
    gateways: list[Gateway],
) -> None:
    account_id, key = await gateways[0].account(cents=0)
    (mine,) = await list_keys(gateways[0].admin, account_id=account_id)
    for gateway in gateways:
        assert (await ask(gateway, bearer(key))).status_code == 404

    assert await revoke_key(gateways[0].admin, key_id=mine.id, now=gateways[0].clock.now())

    for gateway in gateways:
        assert (await ask(gateway, bearer(key))).status_code == 401


@pytest.mark.alone  # a message that takes more than a second would have them be alone once more
async def test_without_nats_each_limits_alone_says_so_once_and_then_they_agree_again(
    gateways: list[Gateway], own_servers: Servers
) -> None:
    await once_of_several(lambda: each_limits_alone(gateways, own_servers))


async def each_limits_alone(gateways: list[Gateway], own_servers: Servers) -> None:
    _, headers = await account(gateways[0], SLOW)
    with capture_logs() as logs:
        os.kill(own_servers.pid("nats"), signal.SIGSTOP)
        try:
            with stopped_clocks(gateways):
                alone = [[await ask(gateway, headers) for _ in range(22)] for gateway in gateways]

            async def alone_said() -> int:
                for gateway in gateways:  # whoever is asked notices that nobody hears of it
                    assert (await ask(gateway, gateway.headers)).status_code == 404
                return said(logs, "alone")

            await eventually(alone_said, REPLICAS.__eq__)
            await asyncio.sleep(2.2 * PATIENCE)  # they try again, and say nothing
        finally:
            os.kill(own_servers.pid("nats"), signal.SIGKILL)
        await own_servers.answers_again("nats")

        async def together_said() -> int:
            return said(logs, "again")

        await eventually(together_said, REPLICAS.__eq__)

    for answers in alone:
        statuses = [answer.status_code for answer in answers]
        assert statuses == [404] * 20 + [429] * 2
    assert said(logs, "alone") == REPLICAS
    account_id, headers = await account(gateways[0], 2)
    with stopped_clocks(gateways):
        assert (await ask(gateways[1], headers)).status_code == 404
        await heard(gateways, account_id)
        assert (await ask(gateways[2], headers)).status_code == 429


def said(logs: Sequence[Mapping[str, object]], word: str) -> int:
    return sum("rate limits" in str(one["event"]) and word in str(one["event"]) for one in logs)
