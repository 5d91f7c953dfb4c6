"""Over HTTP, what a card did not pay for: nothing is submitted, and the files are kept back."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.local.s3 import S3Settings
from libs.contracts.artifact_rpc import Checkpoints, DownloadLink, Downloads
from libs.contracts.billing import (
    PaymentBilled,
    PaymentCharged,
    PaymentDeclined,
    PaymentEvent,
    PaymentPledged,
)
from libs.contracts.scheduler import JobCompleted
from libs.eventlog.append import append_in
from libs.eventlog.record import Append, Head, records_after
from libs.jobstate.state import fold, job_stream, row_of
from services.billing.payments import Owner, load_payment, write
from tests.integration.gateway_app import (
    ROWS,
    Gateway,
    bearer,
    decoded,
    run_form,
    running_gateway,
)
from tests.support.jobs import context, first_append, submission
from tests.support.stack import Database, Nats

PRICE = 700
LINK = DownloadLink(
    name="adapter.safetensors",
    role="adapter",
    url="https://store.test/f",
    expires_in=3600,
    size_bytes=1,
    sha256="0" * 64,
)


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        running.answers["downloads"] = Downloads(links=(LINK,))
        running.answers["checkpoints"] = Checkpoints(links=())
        yield running


async def pay(gateway: Gateway, owner: Owner, *events: PaymentEvent) -> None:
    async with gateway.admin.acquire() as connection, connection.transaction():
        head, payment = await load_payment(connection, owner.job_id)
        await write(connection, owner, head, payment, events, context(gateway.clock.now()))


async def declined_job(gateway: Gateway, account_id: UUID) -> Owner:
    """A completed job whose card was declined."""
    now, job_id = gateway.clock.now(), uuid4()
    event = submission(surface="jobs", paid_by="card")
    done = JobCompleted(tokens_processed=1, artifacts_expires_at=now + timedelta(days=7))
    async with gateway.admin.acquire() as connection:
        first, state = first_append(job_id, account_id, event, now)
        await append_in(connection, first)
        head = Head(stream=job_stream(job_id), version=1, hash=first.records[0].hash)
        records = records_after(head, [done], context(now), job_id=job_id, account_id=account_id)
        await append_in(connection, Append(records=records, job=row_of(fold(state, done, now))))
    owner = Owner(job_id, account_id)
    await pay(
        gateway,
        owner,
        PaymentPledged(amount_cents=PRICE, currency="USD", attempt=1),
        PaymentBilled(amount_cents=PRICE),
        PaymentDeclined(
            attempt=1,
            amount_cents=PRICE,
            code="insufficient_funds",
            message="m",
            retry_at=now + timedelta(hours=1),
        ),
    )
    return owner


async def get(gateway: Gateway, key: str, path: str) -> httpx.Response:
    return await gateway.client.get(path, headers=bearer(key))


async def test_a_declined_card_withholds_the_files_and_new_work_until_it_has_paid(
    gateway: Gateway,
) -> None:
    account_id, key = await gateway.account(cents=10_000)
    owner = await declined_job(gateway, account_id)
    path = f"/v1/jobs/{owner.job_id}/download"
    checkpoints = f"/v1/jobs/{owner.job_id}/checkpoints"

    refused = await get(gateway, key, path)
    assert refused.status_code == 402
    error = decoded(refused)["error"]
    assert (error["code"], error["details"]["amount_cents"]) == ("payment_required", PRICE)
    assert "/v1/jobs/setup-card" in error["message"]
    assert (await get(gateway, key, checkpoints)).status_code == 402
    me = decoded(await get(gateway, key, "/v1/me"))
    assert (me["paused"], me["paused_reason"]) == (True, "payment_declined")

    async def submit() -> httpx.Response:
        return await gateway.client.post(
            "/api/v1/runs",
            headers=bearer(key),
            data=run_form(),
            files={"dataset": ("rows.jsonl", ROWS)},
        )

    run = await submit()
    assert (run.status_code, decoded(run)["error"]["code"]) == (402, "payment_required")

    await pay(gateway, owner, PaymentCharged(attempt=1, amount_cents=PRICE, payment_id="pi_1"))
    assert (await get(gateway, key, path)).status_code == 200
    assert (await get(gateway, key, checkpoints)).status_code == 200
    assert (await submit()).status_code == 201
    kinds = [e["kind"] for e in decoded(await get(gateway, key, f"{path[:-9]}/events"))]
    assert kinds[-3:] == ["payment.billed", "payment.declined", "payment.charged"]
