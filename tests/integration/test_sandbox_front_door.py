"""What the sandbox does with callers: keys, idempotency, wrong parameters, and things that fail."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import stripe

from tests.support.sandbox import (
    API_KEY,
    Sandbox,
    customer_with,
    off_session,
    running_sandbox,
)


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with running_sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


@pytest.fixture
async def sandbox(running: Sandbox) -> AsyncIterator[Sandbox]:
    yield running
    await running.heal()


@pytest.fixture
def api(sandbox: Sandbox) -> Any:
    return sandbox.stripe().v1


def keyed(key: str) -> dict[str, str]:
    return {"idempotency_key": key}


async def test_only_the_key_opens_it(sandbox: Sandbox) -> None:
    with pytest.raises(stripe.AuthenticationError, match="Invalid API Key"):
        await sandbox.stripe(api_key="sk_test_wrong").v1.customers.list_async()

    async with httpx.AsyncClient(base_url=sandbox.url) as http:
        assert (await http.get("/v1/customers")).status_code == 401
        basic = await http.get("/v1/customers", auth=(API_KEY, ""))
        assert basic.status_code == 200
        assert basic.headers["Request-Id"].startswith("req_")
        answer = await http.post("/control/clock", json={"seconds": 5})
        assert answer.status_code == 403


async def test_a_page_elsewhere_cannot_reach_it(sandbox: Sandbox) -> None:
    async with httpx.AsyncClient(base_url=sandbox.url) as http:
        assert (await http.get("/", headers={"Host": "evil.example"})).status_code == 421
        pressed = await http.post("/pay/x", headers={"Origin": "https://evil.example"})
        assert pressed.status_code == 403


async def test_the_version_that_was_asked_for_is_answered(sandbox: Sandbox) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}", "Stripe-Version": "2024-06-20"}
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as http:
        assert (await http.get("/v1/customers")).headers["Stripe-Version"] == "2024-06-20"
        wrong = await http.get("/v1/customers", headers={"Stripe-Version": "latest"})
        assert wrong.status_code == 400


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"amount": 49}, "amount_too_small", "amount"),
        ({"amount": 100_000_000}, "amount_too_large", "amount"),
        ({"amount": "ten"}, "parameter_invalid_integer", "amount"),
        ({"currency": "xyz"}, None, "currency"),
        ({"currency": None}, "parameter_missing", "currency"),
        ({"customer": "cus_nobody"}, "resource_missing", "customer"),
        ({"payment_method": "pm_nothing"}, "resource_missing", "payment_method"),
        ({"payment_method": None}, "parameter_missing", "payment_method"),
        ({"payment_method_types": None}, None, "return_url"),
        ({"offsession": True}, "parameter_unknown", "offsession"),
        ({"metadata": {"a" * 41: "x"}}, None, "metadata"),
        ({"metadata": {"a": "x" * 501}}, None, "metadata[a]"),
        ({"expand": ["nothing_like_it"]}, None, "expand"),
    ],
)
async def test_a_wrong_payment_is_refused_and_changes_nothing(
    sandbox: Sandbox, api: Any, params: dict[str, Any], code: str | None, param: str
) -> None:
    customer, card = await customer_with(api)
    before = await sandbox.movements()

    with pytest.raises(stripe.InvalidRequestError) as error:
        await api.payment_intents.create_async(off_session(customer, card) | params)

    assert (error.value.code, error.value.param) == (code, param)
    assert await sandbox.movements() == before
    assert (await api.payment_intents.list_async({"customer": customer})).data == []


async def test_what_does_not_exist_is_404(api: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError) as error:
        await api.payment_intents.retrieve_async("pi_none")
    assert (error.value.http_status, error.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        await api.payouts.list_async()


async def test_the_same_key_has_its_effect_once(sandbox: Sandbox, api: Any) -> None:
    customer, card = await customer_with(api)
    asked = off_session(customer, card, metadata={"job_id": "once"})

    first = await api.payment_intents.create_async(asked, keyed("once"))
    again = await api.payment_intents.create_async(asked, keyed("once"))

    assert first.to_dict() == again.to_dict()
    assert "idempotent-replayed" not in first.last_response.headers
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert (await sandbox.charges_by("job_id"))["once"] == 1
    keys = [m["idempotency_key"] for m in await sandbox.movements() if m["customer"] == customer]
    assert keys == ["once"]
    with pytest.raises(stripe.IdempotencyError) as error:
        await api.payment_intents.create_async(asked | {"amount": 77_00}, keyed("once"))
    assert error.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError):
        await api.customers.create_async({}, keyed("once"))


async def test_a_decline_is_repeated_too_and_a_wrong_request_is_not_remembered(
    sandbox: Sandbox, api: Any
) -> None:
    customer, card = await customer_with(api)
    await sandbox.verdict(card, "insufficient_funds")
    declined = []
    for _ in range(2):
        with pytest.raises(stripe.CardError) as error:
            await api.payment_intents.create_async(off_session(customer, card), keyed("declined"))
        declined.append(error.value)
        await sandbox.verdict(card, "works")
    assert declined[0].http_body == declined[1].http_body
    assert len((await api.payment_intents.list_async({"customer": customer})).data) == 1

    with pytest.raises(stripe.InvalidRequestError):
        await api.payment_intents.create_async(off_session(customer, card, 1), keyed("wrong"))
    paid = await api.payment_intents.create_async(off_session(customer, card), keyed("wrong"))
    assert paid.status == "succeeded"


async def test_after_a_day_a_key_is_a_new_request(sandbox: Sandbox, api: Any) -> None:
    first = await api.customers.create_async({}, keyed("old"))
    await sandbox.control("POST", "forget-keys")

    assert (await api.customers.create_async({}, keyed("old"))).id != first.id


async def test_two_at_once_with_one_key_are_one(sandbox: Sandbox, api: Any) -> None:
    customer, card = await customer_with(api)
    await sandbox.fail("slow", seconds=3, path="/v1/payment_intents")
    asked = off_session(customer, card, metadata={"job_id": "together"})

    both = await asyncio.gather(
        *(api.payment_intents.create_async(asked, keyed("together")) for _ in range(2)),
        return_exceptions=True,
    )

    (refused,) = [one for one in both if isinstance(one, stripe.APIError)]
    (made,) = [one for one in both if not isinstance(one, stripe.APIError)]
    assert refused.http_status == 409
    assert made.status == "succeeded"
    again = await api.payment_intents.create_async(asked, keyed("together"))
    assert again.id == made.id
    assert (await sandbox.charges_by("job_id"))["together"] == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["drop", "error"])
async def test_a_lost_answer_is_healed_by_the_same_key(
    sandbox: Sandbox, api: Any, kind: str, when: str
) -> None:
    customer, card = await customer_with(api)
    job = f"{kind} {when}"
    asked = off_session(customer, card, metadata={"job_id": job})
    await sandbox.fail(kind, when=when, status=503, path="/v1/payment_intents")

    with pytest.raises((stripe.APIConnectionError, stripe.APIError)):
        await api.payment_intents.create_async(asked, keyed(job))

    assert (await sandbox.charges_by("job_id")).get(job, 0) == (when == "after")
    healed = await api.payment_intents.create_async(asked, keyed(job))
    assert healed.status == "succeeded"
    assert (await sandbox.charges_by("job_id"))[job] == 1


async def test_the_sdk_itself_tries_again(sandbox: Sandbox) -> None:
    await sandbox.fail("error", calls=2, status=429, path="/v1/customers")

    made = await sandbox.stripe(retries=2).v1.customers.create_async({"name": "Eve"})

    assert made.name == "Eve"


async def test_an_error_can_be_the_answer_for_good(sandbox: Sandbox, api: Any) -> None:
    await sandbox.fail("error", remember=True, method="POST", path="/v1/customers")
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            await api.customers.create_async({}, keyed("broken"))
    assert (await api.customers.create_async({}, keyed("another"))).id


async def test_many_at_once_are_each_done_once(sandbox: Sandbox, api: Any) -> None:
    customer, card = await customer_with(api)
    patient: Any = sandbox.stripe(retries=4).v1

    async def pay(number: int) -> Any:
        job = f"many {number % 8}"
        asked = off_session(customer, card, metadata={"job_id": job})
        return await patient.payment_intents.create_async(asked, keyed(job))

    paid = await asyncio.gather(*(pay(number) for number in range(32)))

    counts = await sandbox.charges_by("job_id")
    assert len({one.id for one in paid}) == 8
    assert {counts[f"many {number}"] for number in range(8)} == {1}
