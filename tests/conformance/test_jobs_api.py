"""The Jobs API's list of operations: each of them, as an account with a balance uses it."""

import hashlib
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deploy.local.services import TINY_LLAMA
from tests.conformance.conftest import TIMEOUT, Platform
from tests.conformance.reference import CREATED, JOB
from tests.conformance.shapes import (
    BOOL,
    COUNT,
    SHA256,
    TEXT,
    TIME,
    URL,
    UUID_TEXT,
    expect,
    nullable,
    one_of,
    refused,
)
from tests.support.local_stack import LocalStack, eventually

MODELS = {
    "data": [{"id": UUID_TEXT, "name": TEXT, "available": BOOL}],
    "next_cursor": nullable(TEXT),
    "has_more": BOOL,
}
ESTIMATE = {
    "price_cents": COUNT,
    "currency": "USD",
    "factors": {"tokens": COUNT, "model_params": COUNT},
    "expected_duration_seconds": nullable(COUNT),
    "valid_until": TIME,
}
PAGE = {"data": [JOB], "next_cursor": nullable(TEXT), "has_more": BOOL}
DOWNLOAD = {
    "files": [{"name": TEXT, "url": URL, "size_bytes": COUNT, "sha256": SHA256, "expires_in": 3600}]
}
CARD_PAGE = {"checkout_url": URL, "session_id": TEXT, "expires_at": TIME}
EXTENDED = {"job_id": UUID_TEXT, "price_cents": COUNT, "artifacts_expires_at": TIME, "days": 30}
ME = {
    "id": UUID_TEXT,
    "paused": BOOL,
    "paused_reason": nullable(TEXT),
    "notification_preferences": {"job_completed": BOOL, "job_failed": BOOL},
    "portal_url": nullable(URL),
}
SUMMARY = {
    "currency": "USD",
    "lifetime_spend_cents": COUNT,
    "storage_extension_cents": COUNT,
    "storage_extensions": COUNT,
}
SMALL = {"lora_rank": 32, "steps": 4, "batch_size": 2, "seq_len": 64}
LONG = {"steps": 2000, "batch_size": 2, "seq_len": 64}
EXTENSION = timedelta(days=30)


def body_of(dataset_id: str, hyperparams: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "finetune",
        "base_model_id": TINY_LLAMA,
        "dataset_id": dataset_id,
        "hyperparams": hyperparams,
    }


@pytest.fixture(scope="module")
def completed(platform: Platform, dataset_id: str) -> dict[str, Any]:
    """A completed job."""
    body = body_of(dataset_id, SMALL) | {"idempotency_key": "completed"}
    created = expect(platform.api.post("/v1/jobs", json=body), 201, CREATED)
    return platform.completed(created["id"])


def test_the_catalogue_is_among_the_models(platform: Platform) -> None:
    models = expect(platform.api.get("/v1/models"), 200, MODELS)["data"]
    listed = {model["slug"] for model in models if model["owned_by"] == "catalog"}
    assert {TINY_LLAMA, "llama-3.1-8b", "mistral-7b", "gemma-7b"} <= listed


def test_an_estimate_is_what_the_job_then_costs(platform: Platform, dataset_id: str) -> None:
    body = body_of(dataset_id, LONG)
    estimate = expect(platform.api.post("/v1/jobs/estimate", json=body), 200, ESTIMATE)
    created = platform.api.post("/v1/jobs", json=body | {"idempotency_key": "as-estimated"})
    assert expect(created, 201, CREATED)["price_cents"] == estimate["price_cents"] > 0
    platform.cancel(created.json()["id"])


def test_a_job_that_neither_card_nor_balance_pays_for_is_402(
    poor: Platform, base_model_id: str
) -> None:
    body = {"type": "contract", "idempotency_key": "too-dear", "base_model_id": base_model_id}
    refused(poor.api.post("/v1/jobs", json=body), 402, "insufficient_balance")
    assert expect(poor.api.get("/v1/jobs"), 200, PAGE)["data"] == []


def test_another_accounts_job_is_404(poor: Platform, completed: dict[str, Any]) -> None:
    path = f"/v1/jobs/{completed['id']}"
    for what in ("", "/download", "/metrics", "/logs", "/events", "/result"):
        refused(poor.api.get(path + what), 404, "not_found")
    for what in ("/cancel", "/extend-storage"):
        refused(poor.api.post(path + what), 404, "not_found")


def test_a_card_is_saved_on_a_page(platform: Platform) -> None:
    page = expect(platform.api.post("/v1/jobs/setup-card"), 200, CARD_PAGE)
    shown = httpx.get(page["checkout_url"], trust_env=False, timeout=TIMEOUT)
    assert (shown.status_code, "card" in shown.text) == (200, True)


def test_a_submitted_job_is_answered_at_once(platform: Platform, dataset_id: str) -> None:
    body = body_of(dataset_id, LONG) | {"idempotency_key": str(uuid4())}
    created = expect(platform.api.post("/v1/jobs", json=body), 201, CREATED)
    again = expect(platform.api.get(f"/v1/jobs/{created['id']}"), 200, JOB)
    assert again["id"] == created["id"]
    platform.cancel(created["id"])


def test_the_list_goes_on_from_its_cursor(
    platform: Platform, dataset_id: str, completed: dict[str, Any]
) -> None:
    for _ in range(2):
        platform.cancel(platform.submit("finetune", LONG, **named(dataset_id)))
    whole = expect(platform.api.get("/v1/jobs", params={"limit": 100}), 200, PAGE)
    one = expect(platform.api.get("/v1/jobs", params={"limit": 1}), 200, PAGE)
    assert (len(one["data"]), one["has_more"]) == (1, True)
    following = {"limit": 2, "cursor": one["next_cursor"]}
    two = expect(platform.api.get("/v1/jobs", params=following), 200, PAGE)
    ids = [job["id"] for job in whole["data"]]
    assert [job["id"] for job in one["data"] + two["data"]] == ids[:3]
    assert completed["id"] in ids


def named(dataset_id: str) -> dict[str, str]:
    return {"base_model_id": TINY_LLAMA, "dataset_id": dataset_id}


def test_a_running_job_can_be_cancelled(platform: Platform, dataset_id: str) -> None:
    job_id = platform.submit("finetune", LONG, **named(dataset_id))
    asked = expect(platform.api.post(f"/v1/jobs/{job_id}/cancel"), 200, JOB)
    assert asked["id"] == job_id
    ended = platform.ended(job_id)
    assert ended["status"] == "cancelled"
    assert 0 <= ended["charge_cents"] < ended["price_cents"]


def test_a_completed_job_can_no_longer_be_cancelled(
    platform: Platform, completed: dict[str, Any]
) -> None:
    refused(platform.api.post(f"/v1/jobs/{completed['id']}/cancel"), 409, "job_already_ended")


def test_every_file_of_a_completed_job_downloads(
    platform: Platform, completed: dict[str, Any]
) -> None:
    found = expect(platform.api.get(f"/v1/jobs/{completed['id']}/download"), 200, DOWNLOAD)
    names = {file["name"] for file in found["files"]}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    for file in found["files"]:
        content = httpx.get(file["url"], timeout=TIMEOUT).raise_for_status().content
        assert len(content) == file["size_bytes"]
        assert hashlib.sha256(content).hexdigest() == file["sha256"]


def test_a_job_that_is_not_completed_has_no_download(platform: Platform, dataset_id: str) -> None:
    job_id = platform.submit("finetune", LONG, **named(dataset_id))
    refused(platform.api.get(f"/v1/jobs/{job_id}/download"), 404, "not_found")
    refused(platform.api.post(f"/v1/jobs/{job_id}/extend-storage"), 404, "not_found")
    platform.cancel(job_id)


def test_an_extension_keeps_the_files_thirty_days_longer(
    platform: Platform, completed: dict[str, Any]
) -> None:
    before = expect(platform.api.get("/v1/billing/summary"), 200, SUMMARY)
    path = f"/v1/jobs/{completed['id']}"
    kept_until = platform.job(completed["id"])["artifacts_expires_at"]
    bought = expect(platform.api.post(f"{path}/extend-storage"), 200, EXTENDED)
    longer = datetime.fromisoformat(bought["artifacts_expires_at"])
    assert longer - datetime.fromisoformat(kept_until) == EXTENSION
    assert platform.job(completed["id"])["artifacts_expires_at"] == bought["artifacts_expires_at"]
    after = expect(platform.api.get("/v1/billing/summary"), 200, SUMMARY)
    assert after["storage_extensions"] == before["storage_extensions"] + 1
    paid = after["storage_extension_cents"] - before["storage_extension_cents"]
    assert paid == bought["price_cents"] > 0
    assert after["lifetime_spend_cents"] >= before["lifetime_spend_cents"] + paid


def test_an_extension_is_bought_once_under_its_key(
    platform: Platform, completed: dict[str, Any]
) -> None:
    path = f"/v1/jobs/{completed['id']}/extend-storage"
    key = {"Idempotency-Key": str(uuid4())}
    first = expect(platform.api.post(path, headers=key), 200, EXTENDED)
    again = platform.api.post(path, headers=key)
    assert expect(again, 200, EXTENDED) == first
    assert again.headers["Idempotency-Replayed"] == "true"


def test_the_account_says_how_it_stands(platform: Platform) -> None:
    me = expect(platform.api.get("/v1/me"), 200, ME)
    assert (me["paused"], me["paused_reason"]) == (False, None)
    assert me["id"] == str(platform.stack.credentials.account_id)


def test_the_summary_counts_what_a_completed_job_cost(
    platform: Platform, completed: dict[str, Any]
) -> None:
    eventually(
        lambda: expect(platform.api.get("/v1/billing/summary"), 200, SUMMARY),
        lambda summary: summary["lifetime_spend_cents"] >= completed["charge_cents"] > 0,
        TIMEOUT,
        f"{completed['charge_cents']} cents spent",
    )


def test_liveness_needs_no_key(platform: Platform) -> None:
    answer = httpx.get(f"{platform.stack.base_url}/v1/healthz", timeout=TIMEOUT)
    expect(answer, 200, {"status": one_of("ok")})


OPERATIONS = {
    ("GET", "/v1/models"),
    ("POST", "/v1/jobs/estimate"),
    ("POST", "/v1/jobs/setup-card"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{job_id}"),
    ("POST", "/v1/jobs/{job_id}/cancel"),
    ("GET", "/v1/jobs/{job_id}/download"),
    ("POST", "/v1/jobs/{job_id}/extend-storage"),
    ("GET", "/v1/me"),
    ("GET", "/v1/billing/summary"),
    ("GET", "/v1/billing/ledger"),
}


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
def test_no_operation_works_without_a_key(platform: Platform, method: str, path: str) -> None:
    url = platform.stack.base_url + path.replace("{job_id}", str(uuid4()))
    refused(httpx.request(method, url), 401, "invalid_api_key")


def test_an_id_token_is_taken_in_the_same_header(
    platform: Platform, stack: LocalStack, base_model_id: str
) -> None:
    token = stack.run("token", "--subject", "alice", "--email", "alice@tuneyard.example").strip()
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=stack.base_url, headers=headers, timeout=TIMEOUT) as alice:
        me = expect(alice.get("/v1/me"), 200, ME)
        assert me["id"] != platform.api.get("/v1/me").json()["id"]
        assert expect(alice.get("/v1/jobs"), 200, PAGE)["data"] == []
        expect(alice.get("/v1/models"), 200, MODELS)
        expect(alice.get("/v1/billing/summary"), 200, SUMMARY)
        body = {"type": "contract", "base_model_id": base_model_id}
        expect(alice.post("/v1/jobs/estimate", json=body), 200, ESTIMATE)
        unpaid = body | {"idempotency_key": "alice-1"}
        refused(alice.post("/v1/jobs", json=unpaid), 402, "insufficient_balance")


def test_the_openapi_document_has_every_operation(platform: Platform) -> None:
    answer = httpx.get(f"{platform.stack.base_url}/openapi.json", timeout=TIMEOUT)
    document = answer.raise_for_status().json()
    assert document["openapi"].startswith("3.1.")
    described = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    assert described >= OPERATIONS | {("GET", "/v1/healthz")}
