"""Stripe over HTTP: pages to save a card, to top up and to subscribe, and Stripe's own events."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from msgspec import Struct

from deploy.local.s3 import S3Settings
from services.billing.stripe_pages import read_plans
from services.billing.stripe_provider import StripeProvider
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.integration.stripe_desk import PRICES, WORKS, signature
from tests.support.sandbox import API_KEY, WEBHOOK_SECRET, Sandbox, running_sandbox
from tests.support.stack import Database, Nats

HOOK = "/v1/webhooks/stripe"


class Shop(Struct, kw_only=True):
    gateway: Gateway
    sandbox: Sandbox

    async def post(
        self, path: str, body: Any = None, *, key: str | None = None, account: str | None = None
    ) -> httpx.Response:
        headers = bearer(account or self.gateway.key)
        headers |= {"Idempotency-Key": key} if key else {}
        return await self.gateway.client.post(path, json=body, headers=headers)

    async def get(self, path: str) -> Any:
        return decoded(await self.gateway.client.get(path, headers=self.gateway.headers))

    async def hook(self, payload: bytes, header: str) -> httpx.Response:
        return await self.gateway.client.post(
            HOOK, content=payload, headers={"Stripe-Signature": header}
        )

    async def tell_all(self) -> None:
        """Every event of the sandbox, as it would send them."""
        for event in reversed(await self.sandbox.control("GET", "dump/event")):
            payload = msgspec.json.encode(event)
            answer = await self.hook(payload, signature(payload))
            assert (answer.status_code, decoded(answer)) == (200, {"received": True})


@pytest.fixture(scope="module")
async def shop(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    async with running_sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        provider = StripeProvider(
            api_key=API_KEY,
            webhook_secret=WEBHOOK_SECRET,
            api_base=sandbox.url,
            plans=read_plans(PRICES),
        )
        models = tmp_path_factory.mktemp("models")
        async with running_gateway(database, nats_server, s3, models, provider=provider) as gateway:
            yield Shop(gateway=gateway, sandbox=sandbox)
        await provider.close()


def code_of(answer: httpx.Response) -> str:
    code: str = decoded(answer)["error"]["code"]
    return code


async def test_a_card_is_saved_on_the_page_and_shows_in_the_account(shop: Shop) -> None:
    answer = await shop.post("/v1/jobs/setup-card", {"success_url": "https://a.example/ok"})
    assert answer.status_code == 200, answer.text
    page = decoded(answer)
    assert (await shop.sandbox.page(page["checkout_url"])).status_code == 200
    done = await shop.sandbox.press(page["checkout_url"], card=WORKS, do="pay")
    assert done.headers["Location"] == "https://a.example/ok"
    await shop.tell_all()
    me = await shop.get("/v1/me")
    assert me["has_card"]
    assert (await shop.sandbox.page(me["portal_url"])).status_code == 200


async def test_a_top_up_is_in_the_balance_when_it_is_paid(shop: Shop) -> None:
    before = (await shop.get("/v1/billing/summary"))["balance_cents"]
    answer = await shop.post("/v1/billing/top-up", {"amount_cents": 2_500})
    assert answer.status_code == 200, answer.text
    page = decoded(answer)
    returned = await shop.sandbox.press(page["checkout_url"], card=WORKS, do="pay")
    assert returned.headers["Location"].endswith("/billing/returned")
    assert (await shop.get("/v1/billing/summary"))["balance_cents"] == before
    await shop.tell_all()
    await shop.tell_all()
    assert (await shop.get("/v1/billing/summary"))["balance_cents"] == before + 2_500


async def test_a_subscription_is_the_accounts_and_a_second_one_is_refused(shop: Shop) -> None:
    answer = await shop.post("/v1/billing/subscription", {"plan": "pro"})
    assert answer.status_code == 200, answer.text
    await shop.sandbox.press(decoded(answer)["checkout_url"], card=WORKS, do="pay")
    await shop.tell_all()
    me = await shop.get("/v1/me")
    assert (me["subscription"], me["plan"], me["limits"]["max_api_keys"]) == ("pro", "pro", 100)
    again = await shop.post("/v1/billing/subscription", {"plan": "plus"})
    assert (again.status_code, code_of(again)) == (409, "already_subscribed")
    assert "portal_url" in decoded(again)["error"]["message"]


async def test_one_idempotency_key_is_one_page(shop: Shop) -> None:
    key = str(uuid4())
    first = await shop.post("/v1/billing/top-up", {"amount_cents": 700}, key=key)
    again = await shop.post("/v1/billing/top-up", {"amount_cents": 700}, key=key)
    assert first.content == again.content
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await shop.post("/v1/billing/top-up", {"amount_cents": 701}, key=key)
    assert (other.status_code, code_of(other)) == (409, "idempotency_conflict")
    _, someone = await shop.gateway.account(cents=0)
    theirs = await shop.post("/v1/billing/top-up", {"amount_cents": 701}, key=key, account=someone)
    assert theirs.status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/billing/top-up", {}),
        ("/v1/billing/top-up", {"amount_cents": 49}),
        ("/v1/billing/top-up", {"amount_cents": 100_000_000}),
        ("/v1/billing/top-up", {"amount_cents": 5.5}),
        ("/v1/billing/top-up", {"amount_cents": 500, "success_url": "javascript:alert(1)"}),
        ("/v1/billing/top-up", {"amount_cents": 500, "success_url": "https://[OCH;e?"}),
        ("/v1/jobs/setup-card", {"cancel_url": "https://[::1"}),
        ("/v1/billing/subscription", {"plan": "none"}),
        ("/v1/billing/subscription", {"plan": "plus", "quantity": 2}),
    ],
)
async def test_what_is_not_for_sale_is_refused(shop: Shop, path: str, body: Any) -> None:
    refused = await shop.post(path, body)
    assert (refused.status_code, code_of(refused)) == (422, "validation_failed")


async def test_a_provider_that_is_away_is_a_503_that_says_so(shop: Shop) -> None:
    await shop.sandbox.fail("error", status=503, calls=99)
    refused = await shop.post("/v1/jobs/setup-card")
    await shop.sandbox.heal()
    assert (refused.status_code, code_of(refused)) == (503, "service_unavailable")
    assert "Retry-After" in refused.headers
    assert (await shop.post("/v1/jobs/setup-card")).status_code == 200


async def test_pages_need_the_scope_billing(shop: Shop) -> None:
    account_id, key = await shop.gateway.account(cents=0)
    await shop.gateway.admin.execute(
        "UPDATE gateway.api_key SET scopes = '{read,write,admin}' WHERE account_id = $1", account_id
    )
    for path, body in (
        ("/v1/billing/top-up", {"amount_cents": 500}),
        ("/v1/billing/subscription", {"plan": "plus"}),
    ):
        refused = await shop.post(path, body, account=key)
        assert (refused.status_code, code_of(refused)) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("payload", "header"),
    [
        (b"{}", ""),
        (b"{}", "t=1,v1=00"),
        (b"", "t=1"),
        (b"\xff\xfe", "t=1,v1=00"),
        (b'{"id":"evt"}', signature(b'{"id":"evt"}')),
        (b"{}", "x" * 4_001),
        (b"{}", signature(b"{}", secret="whsec_other")),
    ],
    ids=["none", "wrong", "no signature", "no text", "no event", "too long", "another secret"],
)
async def test_what_stripe_did_not_sign_is_no_event(
    shop: Shop, payload: bytes, header: str
) -> None:
    refused = await shop.hook(payload, header)
    assert (refused.status_code, code_of(refused)) == (400, "invalid_signature")


async def test_an_event_is_at_most_256_kb(shop: Shop) -> None:
    refused = await shop.hook(b"x" * (256 * 1024 + 1), "t=1,v1=00")
    assert (refused.status_code, code_of(refused)) == (413, "payload_too_large")


async def test_the_page_to_return_to_needs_no_key_and_says_nothing_of_anybody(shop: Shop) -> None:
    page = await shop.gateway.client.get("/billing/returned?payment_intent=pi_1")
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert "pi_1" not in page.text
