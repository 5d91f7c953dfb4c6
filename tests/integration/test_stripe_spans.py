"""A question to Stripe is a span that tells nothing of whom it is about."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from opentelemetry.trace import SpanKind

from libs.observability.spans import Recorder, record, span
from libs.observability.trace import continued
from services.billing.provider import Charge, Charged, Declined
from tests.integration.stripe_desk import DECLINES, WORKS, Desk, open_desk
from tests.support.sandbox import API_KEY, running_sandbox
from tests.support.stack import Database

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DESCRIPTION = "A fine-tune of a secret model"


@pytest.fixture
async def desk(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Desk]:
    async with running_sandbox(tmp_path) as sandbox, open_desk(fresh_database, sandbox) as desk:
        yield desk


@pytest.fixture
def recorded() -> Iterator[list[span]]:
    ended: list[span] = []
    record(Recorder(ended.append, 1.0))
    yield ended
    record(None)


@pytest.mark.parametrize(
    ("card", "outcome", "status", "failure"),
    [(WORKS, Charged, 200, None), (DECLINES, Declined, 402, "402")],
    ids=["charged", "declined"],
)
async def test_a_charge_is_a_span_without_a_key_an_id_or_a_text(
    desk: Desk,
    recorded: list[span],
    card: str,
    outcome: type[Charged | Declined],
    status: int,
    failure: str | None,
) -> None:
    account_id, job_id = uuid4(), uuid4()
    customer_id, payment_method_id = await desk.saved_card(account_id, card)
    charge = Charge(
        customer_id=customer_id,
        payment_method_id=payment_method_id,
        account_id=account_id,
        job_id=job_id,
        amount_cents=700,
        currency="USD",
        description=DESCRIPTION,
        key=f"{job_id}:1",
    )

    with continued(GIVEN):
        answer = await desk.provider.charge(charge)

    assert isinstance(answer, outcome)
    one = recorded[0]
    assert {each.kind for each in recorded} == {SpanKind.CLIENT}
    assert (one.name, one.parent, one.failure) == ("POST /v1/payment_intents", GIVEN, failure)
    attributes = {name: value for name, value in one.attributes.items() if name != "error.type"}
    assert attributes == {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "http.response.status_code": status,
    }
    told = msgspec.json.encode(
        [(each.name, each.attributes, each.moments, each.failure) for each in recorded]
    ).decode()
    secrets = (API_KEY, customer_id, payment_method_id, DESCRIPTION, str(account_id), str(job_id))
    assert [secret for secret in secrets if secret in told] == []
