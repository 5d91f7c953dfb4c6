"""How a job is to learn, and what with, over HTTP: methods, held-out data, a checkpoint to begin
with, and what is chosen where nothing was said."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from deploy.local.s3 import S3Settings
from libs.contracts.events import decode_job_event
from libs.contracts.gateway import JobSubmitted
from libs.contracts.scheduler import JobCheckpointed
from libs.eventlog.read import load
from libs.jobstate.state import job_stream
from services.gateway.dataset_rows import DELETION_GRACE, remove_deleted
from tests.integration.gateway_app import ROWS, Gateway, bearer, decoded, running_gateway
from tests.integration.gateway_story import checkpoint_of, completing, file, happened
from tests.support.stack import Database, Nats

PREFERENCES = b"".join(
    b'{"prompt": "%d plus one?", "chosen": "%d", "rejected": "no idea"}\n' % (n, n + 1)
    for n in range(50)
)


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


async def upload(gateway: Gateway, rows: bytes = ROWS) -> str:
    answer = await gateway.client.post(
        "/v1/datasets", headers=gateway.headers, files={"file": ("rows.jsonl", rows)}
    )
    assert answer.status_code == 201, answer.text
    return str(decoded(answer)["id"])


@pytest.fixture(scope="module")
async def dataset_id(gateway: Gateway) -> str:
    return await upload(gateway)


def tune(dataset_id: str, job_type: str = "finetune", **more: Any) -> dict[str, Any]:
    return {
        "type": job_type,
        "idempotency_key": str(uuid4()),
        "base_model_id": "tiny-llama",
        "dataset_id": dataset_id,
        **more,
    }


async def post(gateway: Gateway, path: str, body: dict[str, Any]) -> httpx.Response:
    return await gateway.client.post(path, headers=gateway.headers, json=body)


async def submit(gateway: Gateway, body: dict[str, Any]) -> dict[str, Any]:
    answer = await post(gateway, "/v1/jobs", body)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = decoded(answer)
    return job


async def refused(gateway: Gateway, body: dict[str, Any], status: int = 422) -> str:
    answer = await post(gateway, "/v1/jobs", body)
    assert answer.status_code == status, answer.text
    message: str = decoded(answer)["error"]["message"]
    return message


async def submission(gateway: Gateway, job: dict[str, Any]) -> JobSubmitted:
    _, events = await load(gateway.admin, job_stream(UUID(job["id"])), decode_job_event)
    first = events[0].event
    assert isinstance(first, JobSubmitted)
    return first


async def test_what_nobody_asked_for_is_what_is_recommended_and_the_job_says_so(
    gateway: Gateway, dataset_id: str
) -> None:
    body = tune(dataset_id, hyperparams={"batch_size": 4, "steps": 7})
    named = {"base_model_id": "tiny-llama", "dataset_id": dataset_id, "type": "finetune"}
    advice = decoded(await post(gateway, "/v1/training/recommend", named))["recommended"]

    estimate = decoded(await post(gateway, "/v1/jobs/estimate", body))
    job = await submit(gateway, body)

    assert job["recommended"] == estimate["recommended"] == ["lr", "seq_len"]
    assert estimate["hyperparams"] == job["hyperparams"]
    assert job["hyperparams"]["seq_len"] == advice["seq_len"]
    assert (job["hyperparams"]["batch_size"], job["hyperparams"]["steps"]) == (4, 7)
    assert job["hyperparams"]["lora_rank"] == 32
    timeline = await gateway.client.get(f"/v1/jobs/{job['id']}/events", headers=gateway.headers)
    (payload,) = [one["payload"] for one in decoded(timeline) if one["kind"] == "job.submitted"]
    assert payload["recommended"] == ["lr", "seq_len"]


async def test_a_growth_takes_cycles_that_fit_its_turns(gateway: Gateway, dataset_id: str) -> None:
    job = await submit(gateway, tune(dataset_id, "train", hyperparams={"turns": 2}))
    assert job["recommended"] == ["lr", "cycles", "steps_per_cycle", "seq_len", "batch_size"]
    chosen = job["hyperparams"]
    assert job["steps_total"] == 2 * chosen["cycles"] * chosen["steps_per_cycle"]
    assert (chosen["strategy"], chosen["trainable"]) == ("depth", "new_blocks")


async def test_a_full_fine_tune_pays_for_no_rank_and_shows_nothing_of_an_adapter(
    gateway: Gateway, dataset_id: str
) -> None:
    same = {"steps": 3, "lr": 1e-4, "seq_len": 64, "batch_size": 2}
    full = tune(dataset_id, hyperparams=same | {"method": "full", "patience": 2})

    estimate = decoded(await post(gateway, "/v1/jobs/estimate", full))
    job = await submit(gateway, full)

    assert estimate["factors"]["rank_percent"] == 100
    assert {"lora_rank", "lora_alpha", "use_rslora", "merged_model", "beta"}.isdisjoint(
        job["hyperparams"]
    )
    assert (job["hyperparams"]["method"], job["hyperparams"]["patience"]) == ("full", 2)
    assert (await submission(gateway, job)).recommended == ()


async def test_preferences_are_learnt_by_dpo_alone(gateway: Gateway, dataset_id: str) -> None:
    preferences = await upload(gateway, PREFERENCES)
    job = await submit(gateway, tune(preferences, hyperparams={"method": "dpo", "steps": 3}))
    assert (job["hyperparams"]["lr"], job["hyperparams"]["beta"]) == (1e-5, 0.1)
    assert {"lr", "beta"} <= set(job["recommended"])

    assert "preferences" in await refused(gateway, tune(preferences))
    assert "method dpo" in await refused(gateway, tune(preferences, "train"))
    wrong = tune(dataset_id, hyperparams={"method": "dpo"})
    assert "of the kind messages" in await refused(gateway, wrong)
    asked = {"base_model_id": "tiny-llama", "dataset_id": preferences}
    dpo = asked | {"type": "finetune", "method": "dpo"}
    advice = decoded(await post(gateway, "/v1/training/recommend", dpo))
    assert (advice["recommended"]["lr"], advice["recommended"]["beta"]) == (1e-5, 0.1)
    assert {"lr", "beta"} <= {why["output"] for why in advice["evidence"]}
    grown = await post(gateway, "/v1/training/recommend", asked | {"method": "dpo"})
    assert grown.status_code == 422


async def test_a_data_set_can_be_held_out_and_is_kept_for_the_job(
    gateway: Gateway, dataset_id: str
) -> None:
    held_out = await upload(gateway, ROWS[: len(ROWS) // 2].rsplit(b"\n", 1)[0])
    job = await submit(gateway, tune(dataset_id, validation_dataset_id=held_out))
    assert job["validation_dataset_id"] == held_out
    stored = (await submission(gateway, job)).validation
    assert stored is not None
    assert str(stored.id) == held_out

    assert "another" in await refused(gateway, tune(dataset_id, validation_dataset_id=dataset_id))
    text = await upload(gateway, b'{"text": "once"}\n{"text": "twice"}\n')
    message = await refused(gateway, tune(dataset_id, "train", validation_dataset_id=text))
    assert "of the same kind" in message
    await refused(gateway, tune(dataset_id, validation_dataset_id=str(uuid4())), 404)

    gone = await gateway.client.delete(f"/v1/datasets/{held_out}", headers=gateway.headers)
    assert gone.status_code == 200
    later = datetime.now(UTC) + DELETION_GRACE + timedelta(seconds=1)
    await remove_deleted(gateway.parts.pool, gateway.parts.store, lambda: later)
    assert await gateway.parts.store.size(stored.key) == stored.size_bytes
    await happened(gateway, job["id"], *completing())
    await remove_deleted(gateway.parts.pool, gateway.parts.store, lambda: later)
    assert [key async for key in gateway.parts.store.keys(stored.key)] == []


async def test_a_contraction_may_measure_on_a_data_set(gateway: Gateway, dataset_id: str) -> None:
    body = tune(dataset_id, "contract", hyperparams={"strategy": "width"})
    job = await submit(gateway, body)
    assert job["dataset_id"] == dataset_id
    assert job["hyperparams"]["strategy"] == "width"
    assert "num_layers_to_contract" not in job["hyperparams"]
    assert job["recommended"] == []


async def test_a_fine_tune_begins_with_a_checkpoint_of_another(
    gateway: Gateway, dataset_id: str
) -> None:
    first = await submit(gateway, tune(dataset_id))
    events = [JobCheckpointed(epoch=1, checkpoint=checkpoint_of(first["id"], n)) for n in (5, 9)]
    await happened(gateway, first["id"], *completing(), *events)

    newest = await submit(gateway, tune(dataset_id, start_from={"job_id": first["id"]}))
    earlier = {"job_id": first["id"], "step": 5}
    chosen = await submit(gateway, tune(dataset_id, start_from=earlier))

    assert newest["start_from"] == {"job_id": first["id"], "step": 9}
    assert chosen["start_from"] == earlier
    assert (await submission(gateway, chosen)).start_from == checkpoint_of(first["id"], 5)
    other = tune(dataset_id, start_from=earlier, hyperparams={"lora_rank": 8})
    assert "lora_rank (32, not 8)" in await refused(gateway, other)
    assert "9, 5; name one" in await refused(
        gateway, tune(dataset_id, start_from=earlier | {"step": 7})
    )
    await refused(gateway, tune(dataset_id, start_from={"job_id": str(uuid4())}), 404)
    _, stranger = await gateway.account(cents=10_000_000)
    theirs = await gateway.client.post(
        "/v1/jobs", headers=bearer(stranger), json=tune(dataset_id, start_from=earlier)
    )
    assert theirs.status_code == 404


async def test_an_own_adapter_is_a_base_as_long_as_what_it_adapts_is_there(
    gateway: Gateway, dataset_id: str
) -> None:
    grown = await submit(gateway, tune(dataset_id, "train"))
    weights = file("model.safetensors", "model", f"jobs/{grown['id']}/1/model.safetensors")
    await happened(gateway, grown["id"], *completing(weights, kept_for=timedelta(days=3)))
    shown = decoded(await gateway.client.get(f"/v1/jobs/{grown['id']}", headers=gateway.headers))
    on_own = tune(dataset_id, hyperparams={"lora_rank": 8}) | {
        "base_model_id": shown["output_model_id"]
    }
    adapted = await submit(gateway, on_own)
    adapter = file("adapter_model.safetensors", "adapter", f"jobs/{adapted['id']}/1/a.safetensors")
    await happened(gateway, adapted["id"], *completing(adapter))
    path = f"/v1/jobs/{adapted['id']}"
    made = decoded(await gateway.client.get(path, headers=gateway.headers))["output_model_id"]
    body = tune(dataset_id, "train") | {"base_model_id": made}

    model = (await submission(gateway, await submit(gateway, body))).model
    assert (model.source.location, str(model.id)) == (f"jobs/{grown['id']}/1", made)
    assert model.adapter is not None
    assert model.adapter.location == f"jobs/{adapted['id']}/1"
    assert await _available(gateway, made)
    goes_on = await submit(gateway, tune(dataset_id) | {"base_model_id": made})
    assert goes_on["hyperparams"]["lora_rank"] == 8
    other = tune(dataset_id, hyperparams={"lora_rank": 16}) | {"base_model_id": made}
    assert "merged model" in await refused(gateway, other)

    gateway.clock.ahead = timedelta(days=4)
    try:
        assert not await _available(gateway, made)
        late = await refused(gateway, body | {"idempotency_key": str(uuid4())})
    finally:
        gateway.clock.ahead = timedelta()
    assert "adapts" in late


async def test_a_merged_model_is_whole(gateway: Gateway, dataset_id: str) -> None:
    job = await submit(gateway, tune(dataset_id, hyperparams={"merged_model": True}))
    folder = f"jobs/{job['id']}/1"
    adapter = file("adapter_model.safetensors", "adapter", f"{folder}/adapter_model.safetensors")
    merged = file("merged-model.safetensors", "model", f"{folder}/merged-model.safetensors")
    await happened(gateway, job["id"], *completing(adapter, merged))
    path = f"/v1/jobs/{job['id']}"
    made = decoded(await gateway.client.get(path, headers=gateway.headers))["output_model_id"]

    further = await submit(gateway, tune(dataset_id) | {"base_model_id": made})

    model = (await submission(gateway, further)).model
    assert (model.source.location, model.adapter) == (f"{folder}/merged-", None)
    assert await _available(gateway, made)


async def _available(gateway: Gateway, model_id: str) -> bool:
    answer = await gateway.client.get(f"/v1/models/{model_id}", headers=gateway.headers)
    return bool(decoded(answer)["available"])
