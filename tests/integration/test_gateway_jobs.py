"""The Jobs API over HTTP: data sets, submissions under a key for ever, and a job's whole story."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from deploy.local.program import free_port
from deploy.local.s3 import S3Settings
from libs.contracts import artifact_rpc, scheduler_rpc, telemetry_rpc
from libs.contracts.scheduler import JobFailed, JobLeased
from libs.contracts.training import LogLine, MetricPoint
from libs.objectstore import ObjectStore
from services.gateway.routes.health import missing_parts
from tests.integration.gateway_app import ROWS, Gateway, bearer, decoded, running_gateway
from tests.integration.gateway_story import ARCHIVE_KEY, completing, happened
from tests.support.objects import store_settings
from tests.support.stack import Database, Nats

TINY_LLAMA = "6f2c1f0e-5a0b-4c57-9d53-2f7c4a1e8b01"


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


async def upload(
    gateway: Gateway, *, api_key: str | None = None, key: str | None = None, **fields: str
) -> httpx.Response:
    headers = bearer(api_key or gateway.key) | ({"Idempotency-Key": key} if key else {})
    return await gateway.client.post(
        "/v1/datasets",
        headers=headers,
        data=fields,
        files={"file": ("rows.jsonl", ROWS)},
    )


@pytest.fixture(scope="module")
async def dataset_id(gateway: Gateway) -> str:
    return str(decoded(await upload(gateway, name="numbers"))["id"])


async def submit(gateway: Gateway, body: dict[str, Any]) -> httpx.Response:
    return await gateway.client.post("/v1/jobs", headers=gateway.headers, json=body)


def finetune(dataset_id: str, key: str | None = None, **hyperparams: Any) -> dict[str, Any]:
    return {
        "type": "finetune",
        "idempotency_key": key or str(uuid4()),
        "source_model_id": TINY_LLAMA,
        "dataset_id": dataset_id,
        "hyperparams": hyperparams,
    }


async def get(gateway: Gateway, path: str, *, api_key: str | None = None) -> httpx.Response:
    return await gateway.client.get(path, headers=bearer(api_key or gateway.key))


async def test_an_uploaded_data_set_is_described_and_listed(gateway: Gateway) -> None:
    answer = await upload(gateway, name="my rows")

    assert answer.status_code == 201, answer.text
    created = decoded(answer)
    assert (created["name"], created["filename"]) == ("my rows", "rows.jsonl")
    assert (created["kind"], created["rows"]) == ("messages", 200)
    assert created["tokens"] > 0
    assert created["size_bytes"] == len(ROWS)
    assert decoded(await get(gateway, f"/v1/datasets/{created['id']}")) == created
    assert decoded(await get(gateway, "/v1/datasets"))["data"][0] == created


async def test_uploads_under_one_key_at_once_make_one_data_set(gateway: Gateway) -> None:
    _, api_key = await gateway.account(cents=0)

    answers = await asyncio.gather(*(upload(gateway, api_key=api_key, key="k") for _ in range(8)))
    other = await upload(gateway, api_key=api_key, key="k", name="another")

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert other.status_code == 409
    assert len(decoded(await get(gateway, "/v1/datasets", api_key=api_key))["data"]) == 1


async def test_a_job_is_submitted_as_the_reference_shows_it(
    gateway: Gateway, dataset_id: str
) -> None:
    answer = await submit(gateway, finetune(dataset_id, lora_rank=32, output_name="my-model"))

    assert answer.status_code == 201, answer.text
    job = decoded(answer)
    assert job["type"] == "finetune"
    assert job["status"] == "queued"
    assert (job["retries"], job["last_checkpoint_step"], job["output_model_id"]) == (0, 0, None)
    assert (job["started_at"], job["finished_at"]) == (None, None)
    assert job["hyperparams"]["steps"] == 2000
    assert job["output_name"] == "my-model"
    assert decoded(await get(gateway, f"/v1/jobs/{job['id']}")) == job
    assert decoded(await get(gateway, "/v1/jobs"))["data"][0] == job


@pytest.mark.parametrize("place", ["base_model_id", "hyperparams"])
async def test_the_model_may_be_named_by_slug_and_in_either_place(
    gateway: Gateway, dataset_id: str, place: str
) -> None:
    body = finetune(dataset_id, steps=10)
    del body["source_model_id"]
    if place == "hyperparams":
        body["hyperparams"]["source_model_id"] = "tiny-llama"
    else:
        body[place] = "tiny-llama"

    answer = await submit(gateway, body)

    assert answer.status_code == 201, answer.text
    assert decoded(answer)["base_model"] == {"id": TINY_LLAMA, "slug": "tiny-llama"}


async def test_a_key_in_the_body_stands_for_its_job_for_ever(
    gateway: Gateway, dataset_id: str
) -> None:
    body = finetune(dataset_id, key="run-1", steps=10)

    answers = await asyncio.gather(*(submit(gateway, body) for _ in range(32)))
    gateway.clock.ahead = timedelta(days=400)
    try:
        later = await submit(gateway, body)
        other = await submit(gateway, finetune(dataset_id, key="run-1", steps=11))
    finally:
        gateway.clock.ahead = timedelta()

    assert {answer.status_code for answer in answers} == {201}
    assert {answer.content for answer in answers} == {later.content}
    assert later.headers["idempotency-replayed"] == "true"
    assert other.status_code == 409
    assert decoded(other)["error"]["code"] == "idempotency_conflict"


@pytest.mark.parametrize(
    ("change", "status", "code", "named"),
    [
        ({"type": "train", "hyperparams": {"steps": 5}}, 422, "validation_failed", "steps"),
        ({"type": "train", "hyperparams": {"turns": 0}}, 422, "validation_failed", "turns"),
        ({"type": "contract", "dataset_id": 7}, 422, "validation_failed", "dataset_id"),
        ({"type": "contract", "start_from": {}}, 422, "validation_failed", "start_from"),
        ({"start_from": {"step": 5}}, 422, "validation_failed", "job_id"),
        ({"hyperparams": {"method": "dpo"}}, 422, "validation_failed", "rejected"),
        ({"hyperparams": {"target_modules": []}}, 422, "validation_failed", "target_modules"),
        ({"type": "unknown"}, 422, "validation_failed", "unknown"),
        ({"hyperparams": {"turns": 2}}, 422, "validation_failed", "turns"),
        ({"hyperparams": {"steps": 0}}, 422, "validation_failed", "steps"),
        ({"hyperparams": {"steps": 10**30}}, 422, "validation_failed", "steps"),
        ({"hyperparams": {"lr": "fast"}}, 422, "validation_failed", "lr"),
        ({"idempotency_key": ""}, 422, "validation_failed", "idempotency_key"),
        ({"idempotency_key": "a\x00b"}, 422, "validation_failed", "idempotency_key"),
        ({"base_model_id": "mistral-7b"}, 422, "validation_failed", "base_model_id"),
        ({"source_model_id": "gpt-9"}, 422, "model_not_available", "gpt-9"),
        ({"source_model_id": "mistral-7b"}, 422, "model_not_available", "mistral-7b"),
        ({"dataset_id": str(uuid4())}, 404, "not_found", "dataset"),
        ({"dataset_id": "mine"}, 422, "validation_failed", "dataset_id"),
    ],
)
async def test_a_refused_job_says_what_to_change(
    gateway: Gateway, dataset_id: str, change: dict[str, Any], status: int, code: str, named: str
) -> None:
    answer = await submit(gateway, finetune(dataset_id) | change)

    assert answer.status_code == status, answer.text
    error = decoded(answer)["error"]
    assert error["code"] == code
    assert named in error["message"]


async def test_a_completed_job_has_a_result_a_story_and_links(
    gateway: Gateway, dataset_id: str
) -> None:
    job_id = decoded(await submit(gateway, finetune(dataset_id, steps=10)))["id"]
    for path in ("result", "download"):
        assert (await get(gateway, f"/v1/jobs/{job_id}/{path}")).status_code == 404
    await happened(gateway, job_id, *completing())
    link = artifact_rpc.DownloadLink(
        name="adapter_model.safetensors",
        role="adapter",
        url="http://127.0.0.1/adapter",
        size_bytes=7,
        sha256="0" * 64,
        expires_in=3600,
    )
    gateway.answers["downloads"] = artifact_rpc.Downloads(links=(link,))

    job = decoded(await get(gateway, f"/v1/jobs/{job_id}"))
    result = decoded(await get(gateway, f"/v1/jobs/{job_id}/result"))
    events = await get(gateway, f"/v1/jobs/{job_id}/events")
    download = decoded(await get(gateway, f"/v1/jobs/{job_id}/download"))

    assert job["status"] == "completed"
    assert job["output_model_id"] is not None
    assert result["job_id"] == job_id
    assert result["ppl_delta_pct"] == -75.0
    assert result["cost_usd"] == job["charge_cents"] / 100
    assert result["params_delta"] == 100_000
    assert [event["kind"] for event in decoded(events)] == [
        "payment.reserved",
        "job.submitted",
        "job.leased",
        "job.started",
        "job.trained",
        "job.completed",
    ]
    assert {frozenset(event) for event in decoded(events)} == {frozenset({"ts", "kind", "payload"})}
    assert ARCHIVE_KEY not in events.text
    assert "datasets/" not in events.text
    assert download["job_id"] == job_id
    assert download["files"][0]["role"] == "adapter"
    assert download["files"][0]["expires_in"] == 3600


async def test_files_that_are_no_longer_kept_are_not_found(
    gateway: Gateway, dataset_id: str
) -> None:
    job_id = decoded(await submit(gateway, finetune(dataset_id, steps=10)))["id"]
    await happened(gateway, job_id, *completing(kept_for=timedelta(seconds=-1)))

    answer = await get(gateway, f"/v1/jobs/{job_id}/download")

    assert answer.status_code == 404
    assert decoded(answer)["error"]["code"] == "not_found"


async def test_a_failed_job_says_why(gateway: Gateway, dataset_id: str) -> None:
    job_id = decoded(await submit(gateway, finetune(dataset_id, steps=10)))["id"]
    await happened(
        gateway,
        job_id,
        JobLeased(epoch=1, trainer_id="trainer-0"),
        JobFailed(code="out_of_memory", message="Lower batch_size."),
    )

    job = decoded(await get(gateway, f"/v1/jobs/{job_id}"))

    assert job["status"] == "failed"
    assert job["error"] == {"code": "out_of_memory", "message": "Lower batch_size."}


async def test_telemetry_is_passed_on_with_what_was_asked_for(
    gateway: Gateway, dataset_id: str
) -> None:
    job_id = decoded(await submit(gateway, finetune(dataset_id, steps=10)))["id"]
    at = datetime(2026, 3, 19, tzinfo=UTC)
    point = MetricPoint(
        ts=at,
        step=620,
        cycle=1,
        phase="train",
        loss=0.78,
        lr=2.1e-5,
        throughput=1.39,
        vram_gb=23.6,
        grad_norm=1.02,
    )

    def metrics(asked: telemetry_rpc.GetMetrics) -> telemetry_rpc.MetricPage:
        points = [point] if asked.since_step < 620 else []
        return telemetry_rpc.MetricPage(
            job_id=asked.job_id, count=len(points), latest_step=620, points=points
        )

    def logs(asked: telemetry_rpc.GetLogs) -> telemetry_rpc.LogPage:
        line = LogLine(seq=asked.since + 1, ts=at, stream="stdout", text="step 620")
        return telemetry_rpc.LogPage(job_id=asked.job_id, latest_seq=line.seq, lines=[line])

    gateway.answers |= {"metrics": metrics, "logs": logs}

    everything = decoded(await get(gateway, f"/v1/jobs/{job_id}/metrics"))
    newer = decoded(await get(gateway, f"/v1/jobs/{job_id}/metrics?since_step=620"))
    tail = decoded(await get(gateway, f"/v1/jobs/{job_id}/logs?since=1840"))

    assert everything["job_id"] == job_id
    assert (everything["count"], everything["latest_step"]) == (1, 620)
    assert everything["points"][0]["vram_gb"] == 23.6
    assert newer["points"] == []
    assert tail["lines"][0]["seq"] == tail["latest_seq"] == 1841


async def test_cancelling_asks_the_scheduler_and_shows_the_job(
    gateway: Gateway, dataset_id: str
) -> None:
    job_id = decoded(await submit(gateway, finetune(dataset_id, steps=10)))["id"]
    path = f"/v1/jobs/{job_id}/cancel"
    gateway.answers["cancel"] = scheduler_rpc.Cancelling(status="queued")
    accepted = await gateway.client.post(path, headers=gateway.headers)
    gateway.answers["cancel"] = scheduler_rpc.AlreadyEnded(status="completed")
    late = await gateway.client.post(path, headers=gateway.headers)

    assert accepted.status_code == 200
    assert decoded(accepted)["id"] == job_id
    assert late.status_code == 409
    assert decoded(late)["error"]["code"] == "job_already_ended"


@pytest.mark.parametrize(
    "path", ["", "/events", "/metrics", "/logs", "/result", "/download", "/cancel"]
)
async def test_another_accounts_job_does_not_exist(
    gateway: Gateway, dataset_id: str, path: str
) -> None:
    job_id = decoded(await submit(gateway, finetune(dataset_id, steps=10)))["id"]
    _, other = await gateway.account(cents=0)
    method = "POST" if path == "/cancel" else "GET"

    answer = await gateway.client.request(method, f"/v1/jobs/{job_id}{path}", headers=bearer(other))

    assert answer.status_code == 404
    assert decoded(answer)["error"]["code"] == "not_found"


async def test_another_accounts_data_set_can_neither_be_seen_nor_used(
    gateway: Gateway, dataset_id: str
) -> None:
    _, other = await gateway.account(cents=100_000)

    seen = await get(gateway, f"/v1/datasets/{dataset_id}", api_key=other)
    used = await gateway.client.post("/v1/jobs", headers=bearer(other), json=finetune(dataset_id))

    assert seen.status_code == used.status_code == 404
    assert decoded(await get(gateway, "/v1/datasets", api_key=other))["data"] == []


async def test_every_part_is_asked_before_the_platform_calls_itself_ready(
    gateway: Gateway,
) -> None:
    alive = await gateway.client.get("/v1/healthz")
    ready = await gateway.client.get("/v1/readyz")

    assert alive.status_code == 200
    assert ready.status_code == 200, ready.text


async def test_a_part_that_does_not_answer_is_named(gateway: Gateway, s3: S3Settings) -> None:
    nobody_there = msgspec.structs.replace(
        store_settings(s3), endpoint=f"http://127.0.0.1:{free_port()}"
    )
    async with ObjectStore(nobody_there) as store:
        parts = msgspec.structs.replace(gateway.parts, store=store)

        assert await missing_parts(parts) == ["s3"]
