"""Jobs of all three types over HTTP: priced, accepted, and taken as the base of further ones."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.local.s3 import S3Settings
from libs.contracts.base import ModelSource
from libs.contracts.events import decode_job_event
from libs.contracts.gateway import JobSubmitted
from libs.contracts.training import ContractParams, TrainParams
from libs.eventlog.read import load
from libs.jobstate.state import job_stream
from services.gateway.dataset_rows import DELETION_GRACE, remove_deleted
from tests.integration.gateway_app import ROWS, Gateway, bearer, decoded, running_gateway
from tests.integration.gateway_story import completing, file, happened
from tests.support.stack import Database, Nats

TINY_LLAMA = "6f2c1f0e-5a0b-4c57-9d53-2f7c4a1e8b01"


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.fixture(scope="module")
async def dataset_id(gateway: Gateway) -> str:
    return await upload(gateway)


async def upload(gateway: Gateway) -> str:
    answer = await gateway.client.post(
        "/v1/datasets", headers=gateway.headers, files={"file": ("rows.jsonl", ROWS)}
    )
    assert answer.status_code == 201, answer.text
    return str(decoded(answer)["id"])


async def post(gateway: Gateway, path: str, body: dict[str, Any]) -> httpx.Response:
    return await gateway.client.post(path, headers=gateway.headers, json=body)


async def get(gateway: Gateway, path: str) -> httpx.Response:
    return await gateway.client.get(path, headers=gateway.headers)


def train(dataset_id: str, **hyperparams: Any) -> dict[str, Any]:
    return {
        "type": "train",
        "idempotency_key": str(uuid4()),
        "base_model_id": TINY_LLAMA,
        "dataset_id": dataset_id,
        "hyperparams": hyperparams,
    }


def contract(model_id: str = TINY_LLAMA, **hyperparams: Any) -> dict[str, Any]:
    return {
        "type": "contract",
        "idempotency_key": str(uuid4()),
        "hyperparams": {"source_model_id": model_id} | hyperparams,
    }


async def submitted(gateway: Gateway, job_id: str) -> JobSubmitted:
    _, events = await load(gateway.admin, job_stream(UUID(job_id)), decode_job_event)
    first = events[0].event
    assert isinstance(first, JobSubmitted)
    return first


async def test_a_growth_is_accepted_with_its_hyperparameters_and_defaults(
    gateway: Gateway, dataset_id: str
) -> None:
    body = train(dataset_id, turns=2, cycles=3, steps_per_cycle=10, output_name="my-model")

    answer = await post(gateway, "/v1/jobs", body)

    assert answer.status_code == 201, answer.text
    job = decoded(answer)
    assert (job["type"], job["status"], job["output_name"]) == ("train", "queued", "my-model")
    assert job["steps_total"] == 2 * 3 * 10
    assert (
        job["hyperparams"].items()
        >= {
            "turns": 2,
            "cycles": 3,
            "steps_per_cycle": 10,
            "seq_len": 256,
        }.items()
    )
    assert "lora_rank" not in job["hyperparams"]
    assert isinstance((await submitted(gateway, job["id"])).hyperparams, TrainParams)
    assert decoded(await get(gateway, f"/v1/jobs/{job['id']}")) == job


async def test_a_contraction_needs_a_model_and_no_data_set(gateway: Gateway) -> None:
    answer = await post(gateway, "/v1/jobs", contract(contraction_ratio=0.5))

    assert answer.status_code == 201, answer.text
    job = decoded(answer)
    assert (job["type"], job["dataset_id"]) == ("contract", None)
    assert job["hyperparams"]["num_layers_to_contract"] == 8
    assert isinstance((await submitted(gateway, job["id"])).hyperparams, ContractParams)


async def test_an_estimate_is_the_sum_of_its_parts_and_what_the_job_then_costs(
    gateway: Gateway, dataset_id: str
) -> None:
    for body in (
        train(dataset_id, steps_per_cycle=5),
        contract(),
        contract() | {"priority_processing": True},
        train(dataset_id) | {"type": "finetune", "hyperparams": {"steps": 3, "lora_rank": 64}},
    ):
        without_key = {name: of for name, of in body.items() if name != "idempotency_key"}

        estimate = decoded(await post(gateway, "/v1/jobs/estimate", without_key))
        job = decoded(await post(gateway, "/v1/jobs", body))

        assert estimate["price_cents"] == job["price_cents"] == sum(estimate["parts"].values())
        assert estimate["tokens_planned"] == job["tokens_planned"]
        assert estimate["hyperparams"] == job["hyperparams"]
        assert ("priority" in estimate["parts"]) == job["priority_processing"]


async def test_an_estimate_makes_no_job_and_takes_no_money(
    gateway: Gateway, dataset_id: str
) -> None:
    before = decoded(await get(gateway, "/api/v1/balance"))
    newest = decoded(await get(gateway, "/v1/jobs?limit=1"))["data"]

    body = train(dataset_id)
    answers = [await post(gateway, "/v1/jobs/estimate", body) for _ in range(2)]

    assert {answer.status_code for answer in answers} == {200}
    assert decoded(await get(gateway, "/api/v1/balance")) == before
    assert decoded(await get(gateway, "/v1/jobs?limit=1"))["data"] == newest


async def test_an_own_model_is_listed_first_and_can_be_worked_on_until_it_expires(
    gateway: Gateway, dataset_id: str
) -> None:
    grown = decoded(await post(gateway, "/v1/jobs", train(dataset_id, output_name="grown")))["id"]
    adapted = train(dataset_id) | {"type": "finetune", "hyperparams": {"steps": 1}}
    tuned = decoded(await post(gateway, "/v1/jobs", adapted))["id"]
    weights = file("model.safetensors", "model", f"jobs/{grown}/1/model.safetensors")
    adapter = file("adapter_model.safetensors", "adapter", f"jobs/{tuned}/1/a.safetensors")
    await happened(gateway, grown, *completing(weights))
    await happened(gateway, tuned, *completing(adapter))

    listed = decoded(await get(gateway, "/v1/models"))["data"]
    own = decoded(await get(gateway, "/v1/models?owner=account"))["data"]
    catalog = decoded(await get(gateway, "/v1/models?owner=catalog"))["data"]

    assert listed == own + catalog
    by_job = {model["job_id"]: model for model in own}
    model = by_job[grown]
    assert (model["name"], model["kind"], model["available"]) == ("grown", "model", True)
    assert (by_job[tuned]["kind"], by_job[tuned]["available"]) == ("adapter", True)
    assert {entry["owned_by"] for entry in catalog} == {"catalog"}
    assert decoded(await get(gateway, f"/v1/models/{model['id']}")) == model
    assert decoded(await get(gateway, "/v1/models/tiny-llama"))["id"] == TINY_LLAMA

    further = await post(gateway, "/v1/jobs", contract(model["id"]))
    assert further.status_code == 201, further.text
    source = (await submitted(gateway, decoded(further)["id"])).model.source
    assert (source.kind, source.location) == ("s3", f"jobs/{grown}/1")
    of_adapter = await post(gateway, "/v1/jobs", contract(by_job[tuned]["id"]))
    assert of_adapter.status_code == 201, of_adapter.text
    base = (await submitted(gateway, decoded(of_adapter)["id"])).model
    assert (base.source.kind, base.source.location) == ("local", "tiny-llama")
    assert base.adapter == ModelSource(kind="s3", location=f"jobs/{tuned}/1")

    gateway.clock.ahead = timedelta(days=8)
    try:
        late = await post(gateway, "/v1/jobs", contract(model["id"]))
    finally:
        gateway.clock.ahead = timedelta()
    assert decoded(late)["error"]["code"] == "model_not_available"


async def test_models_are_walked_page_by_page(gateway: Gateway) -> None:
    whole = decoded(await get(gateway, "/v1/models?limit=100"))["data"]
    seen, cursor = [], ""
    while True:
        page = decoded(await get(gateway, f"/v1/models?limit=1{cursor}"))
        seen += page["data"]
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == whole
    assert len({model["id"] for model in seen}) == len(seen) >= 3


async def test_a_timeline_can_be_read_in_parts(gateway: Gateway, dataset_id: str) -> None:
    job_id = decoded(await post(gateway, "/v1/jobs", train(dataset_id)))["id"]
    await happened(gateway, job_id, *completing())
    path = f"/v1/jobs/{job_id}/events"
    whole = await get(gateway, path)

    parts: list[Any] = []
    at = f"{path}?limit=2"
    while at:
        answer = await get(gateway, at)
        parts += decoded(answer)
        at = answer.links["next"]["url"] if "next" in answer.links else ""
        assert ("x-next-cursor" in answer.headers) == bool(at)

    assert parts == decoded(whole)
    assert len(parts) == 6
    assert "link" not in whole.headers


async def test_a_deleted_data_set_is_gone_at_once_and_its_file_when_no_job_needs_it(
    gateway: Gateway,
) -> None:
    doomed = await upload(gateway)
    job_id = decoded(await post(gateway, "/v1/jobs", train(doomed)))["id"]
    key = f"datasets/{gateway.account_id}/{doomed}.jsonl"

    deleted = await gateway.client.delete(f"/v1/datasets/{doomed}", headers=gateway.headers)

    assert (deleted.status_code, decoded(deleted)) == (200, {"id": doomed, "deleted": True})
    again = await gateway.client.delete(f"/v1/datasets/{doomed}", headers=gateway.headers)
    assert again.status_code == 404
    assert (await get(gateway, f"/v1/datasets/{doomed}")).status_code == 404
    assert doomed not in (await get(gateway, "/v1/datasets")).text
    assert (await post(gateway, "/v1/jobs", train(doomed))).status_code == 404

    async def sweep(at: datetime) -> int:
        return await remove_deleted(gateway.parts.pool, gateway.parts.store, lambda: at)

    later = datetime.now(UTC) + DELETION_GRACE + timedelta(seconds=1)
    await sweep(later)
    assert await gateway.parts.store.size(key) == len(ROWS)  # the job waits for it
    await happened(gateway, job_id, *completing())
    assert await sweep(datetime.now(UTC)) == 0
    assert await sweep(later) == 1
    assert [found async for found in gateway.parts.store.keys(key)] == []


async def test_another_accounts_data_set_cannot_be_deleted(
    gateway: Gateway, dataset_id: str
) -> None:
    _, stranger = await gateway.account(cents=0)
    answer = await gateway.client.delete(f"/v1/datasets/{dataset_id}", headers=bearer(stranger))
    assert answer.status_code == 404
    assert (await get(gateway, f"/v1/datasets/{dataset_id}")).status_code == 200
