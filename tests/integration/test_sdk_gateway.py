"""The SDK against a real gateway: every resource, blocking and asynchronous."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from deploy.local.s3 import S3Settings
from libs.contracts import artifact_rpc
from tests.integration.gateway_app import ROWS, Gateway, running_gateway
from tests.integration.gateway_story import completing, happened
from tests.support.stack import Database, Nats
from tuneyard import (
    AsyncTuneyard,
    AuthenticationError,
    IdempotencyConflictError,
    InsufficientBalanceError,
    NotFoundError,
    Tuneyard,
    ValidationError,
)
from tuneyard.types import FinetuneHyperparams, PreferencesPatch

T = TypeVar("T")

TINY_LLAMA = "6f2c1f0e-5a0b-4c57-9d53-2f7c4a1e8b01"


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[AsyncTuneyard]:
    async with AsyncTuneyard(api_key=gateway.key, base_url=gateway.url) as client:
        yield client


async def blocking(gateway: Gateway, work: Callable[[Tuneyard], T]) -> T:
    """In a thread, since the gateway runs in this process."""

    def run() -> T:
        with Tuneyard(api_key=gateway.key, base_url=gateway.url) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_a_job_from_the_data_set_to_its_cancellation(
    gateway: Gateway, client: AsyncTuneyard
) -> None:
    dataset = await client.datasets.create(file=ROWS, name="numbers", filename="n.jsonl")
    price = await client.jobs.estimate(
        type="finetune",
        base_model_id="tiny-llama",
        dataset_id=dataset.id,
        hyperparams={"steps": 10},
    )
    job = await client.jobs.create(
        type="finetune",
        base_model_id=TINY_LLAMA,
        dataset_id=dataset.id,
        hyperparams=FinetuneHyperparams(steps=10, output_name="mine"),
        label="from the SDK",
    )

    assert (dataset.rows, dataset.kind, dataset.filename) == (200, "messages", "n.jsonl")
    assert price.price_cents == job.price_cents > 0
    assert (job.status, job.output_name, job.label) == ("queued", "mine", "from the SDK")
    assert job.hyperparams.steps == 10
    assert await client.jobs.get(job_id=job.id) == job
    kinds = [event.kind async for event in client.jobs.events(job_id=job.id, limit=1)]
    assert kinds == ["payment.reserved", "job.submitted"]
    with pytest.raises(NotFoundError):
        await client.jobs.result(job_id=job.id)


async def test_the_blocking_client_does_the_same(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(ROWS)
    told: list[tuple[int, int]] = []

    def work(client: Tuneyard) -> None:
        dataset = client.datasets.create(file=file, progress=lambda *at: told.append(at))
        job = client.jobs.create(
            type="train",
            base_model_id="tiny-llama",
            dataset_id=dataset.id,
            hyperparams={"turns": 2},
            idempotency_key="mine",
        )
        raw = client.jobs.with_raw_response.create(
            type="train",
            base_model_id="tiny-llama",
            dataset_id=dataset.id,
            hyperparams={"turns": 2},
            idempotency_key="mine",
        )
        assert dataset.filename == "rows.jsonl"
        assert job.hyperparams.turns == 2
        assert raw.replayed
        assert raw.status == 201
        assert raw.request_id
        assert raw.parse() == job
        with pytest.raises(IdempotencyConflictError) as conflict:
            client.jobs.create(type="contract", base_model_id="tiny-llama", idempotency_key="mine")
        assert conflict.value.status == 409
        assert client.datasets.delete(dataset_id=dataset.id).deleted

    await blocking(gateway, work)
    assert told[0] == (0, len(ROWS))
    assert told[-1] == (len(ROWS), len(ROWS))


async def test_a_list_is_walked_to_its_end(gateway: Gateway, client: AsyncTuneyard) -> None:
    made = [await client.datasets.create(file=ROWS, name=f"set {n}") for n in range(5)]

    newest = []
    async for dataset in client.datasets.list(limit=2):
        newest.append(dataset.id)
        if len(newest) == 5:
            break
    page = await client.datasets.list(limit=2).page()

    assert newest == [dataset.id for dataset in reversed(made)]
    assert len(page.data) == 2
    assert page.has_more
    everything = await blocking(gateway, lambda one: [each.id for each in one.datasets.list()])
    assert everything[:5] == newest


async def test_a_run_is_paid_and_seen(gateway: Gateway, client: AsyncTuneyard) -> None:
    before = await client.billing.balance()
    run = await client.runs.create(
        dataset=ROWS,
        model_id="tiny-llama",
        model_terms_accepted=True,
        data_policy_accepted=True,
        label="run",
    )

    after = await client.billing.balance()
    assert before.balance_cents - after.balance_cents == run.price_cents
    detail = await client.runs.get(run_id=run.run_id)
    assert (detail.status, detail.label) == ("queued", "run")
    assert (await client.runs.list().page()).data[0].run_id == run.run_id
    moved = [entry async for entry in client.billing.ledger(limit=1)]
    assert run.run_id in [entry.job_id for entry in moved]
    assert (await client.billing.summary()).balance_cents == after.balance_cents


async def test_bad_lines_are_named_in_the_details(client: AsyncTuneyard) -> None:
    with pytest.raises(ValidationError) as refused:
        await client.datasets.create(file=b'{"text": "good"}\n{"nothing": 1}\n')

    assert refused.value.code == "validation_failed"
    assert refused.value.details["errors"][0]["line"] == 2
    assert refused.value.request_id


async def test_the_account_its_keys_and_the_models(client: AsyncTuneyard, gateway: Gateway) -> None:
    me = await client.me.update(
        name="Ada", notification_preferences=PreferencesPatch(product_news=False)
    )
    assert (me.name, me.notification_preferences.product_news) == ("Ada", False)
    assert await client.me.get() == me

    made = await client.api_keys.create(name="second", scopes=["read"])
    assert made.scopes == ["read"]
    assert made.id in [key.id async for key in client.api_keys.list()]
    assert (await client.api_keys.delete(key_id=made.id)).deleted
    async with AsyncTuneyard(api_key=made.key, base_url=gateway.url) as deleted:
        with pytest.raises(AuthenticationError):
            await deleted.me.get()

    (tiny,) = [model async for model in client.models.list_base() if model.slug == "tiny-llama"]
    assert (await client.models.get(model_id="tiny-llama")).id == tiny.id == TINY_LLAMA
    assert "tiny-llama" in [model.model_id async for model in client.models.list_for_runs()]
    assert "tiny-llama" in [model.slug async for model in client.models.list(owner="catalog")]


async def test_what_to_begin_with_is_recommended(client: AsyncTuneyard) -> None:
    grow = await client.training.recommend(params=10**9, dataset_tokens=10**7)
    adapt = await client.training.recommend(type="finetune", params=10**9, dataset_tokens=10**7)

    assert (grow.type, adapt.type) == ("train", "finetune")
    assert adapt.windows.lr.min <= adapt.recommended.lr <= adapt.windows.lr.max


async def test_an_empty_balance_is_an_error_of_its_own(gateway: Gateway) -> None:
    _, key = await gateway.account(cents=0)
    async with AsyncTuneyard(api_key=key, base_url=gateway.url) as poor:
        with pytest.raises(InsufficientBalanceError) as refused:
            await poor.runs.create(
                dataset=ROWS,
                model_id="tiny-llama",
                model_terms_accepted=True,
                data_policy_accepted=True,
            )
    assert refused.value.status == 402


async def test_the_platform_says_that_it_is_there(client: AsyncTuneyard) -> None:
    assert (await client.platform.health()).status == "ok"
    assert (await client.platform.readiness()).status == "ready"
    assert "/v1/jobs" in (await client.platform.openapi())["paths"]


async def test_the_files_of_a_job_come_from_the_store_and_expired_links_are_renewed(
    gateway: Gateway, client: AsyncTuneyard, tmp_path: Path
) -> None:
    """Real links of a real store: the first ones are refused by it, the next ones are good."""
    job = await client.jobs.create(type="contract", base_model_id="tiny-llama")
    await happened(gateway, job.id, *completing())
    content = {"model.safetensors": bytes(range(256)) * 9_000, "config.json": b"{}"}
    links = {}
    for name, of in content.items():
        await gateway.parts.store.put(f"jobs/{job.id}/{name}", of)
        links[name] = await gateway.parts.store.presign_get(
            f"jobs/{job.id}/{name}", timedelta(minutes=5)
        )
    times = 0

    def downloads(_: object) -> artifact_rpc.Downloads:
        nonlocal times
        times += 1
        return artifact_rpc.Downloads(
            links=tuple(
                artifact_rpc.DownloadLink(
                    name=name,
                    role="model",
                    url=links[name] + ("" if times > 1 else "spoilt"),
                    size_bytes=len(of),
                    sha256=hashlib.sha256(of).hexdigest(),
                    expires_in=300,
                )
                for name, of in content.items()
            )
        )

    gateway.answers["downloads"] = downloads
    (tmp_path / "model.safetensors.part").write_bytes(content["model.safetensors"][:5_000])
    paths = await client.jobs.download(job_id=job.id, dir=tmp_path)

    assert {path.name: path.read_bytes() for path in paths} == content
    assert times >= 2
    assert (await client.jobs.result(job_id=job.id)).job_id == job.id
    ended = await blocking(gateway, lambda one: one.jobs.wait(job_id=job.id))
    assert ended.status == "completed"
