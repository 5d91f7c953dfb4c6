"""Whoever asks, and whatever they send: the caller is settled first, and nothing ends in a 5xx."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.s3 import S3Settings
from libs.contracts import telemetry_rpc
from libs.observability.spans import Recorder, record, span
from services.gateway.access.key_text import key_of
from services.gateway.access.keys import CACHE_SECONDS
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
NOBODYS = "5b6f3c4e-0b2a-4c8e-9a51-2f6d0f6f7a10"  # an id that nothing has
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer tuneyard_",
        f"Bearer {key_of(b'0' * 32)}",
        f"Basic {key_of(b'0' * 32)}",
        f"Bearer {key_of(b'0' * 32)}x",
        "Bearer " + "x" * 5000,
        "Bearer \xff\xfe",
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/api/v1/runs", "//v1/jobs", "/nowhere"])
async def test_without_a_good_key_nothing_is_answered(
    gateway: Gateway, authorization: str | None, path: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}

    answer = await gateway.client.post(path, headers=headers, content=b"not even read")

    assert answer.status_code == 401
    error = decoded(answer)["error"]
    assert error["code"] == "invalid_api_key"
    assert error["request_id"] == answer.headers["x-request-id"]


async def test_the_key_is_judged_before_the_body_has_arrived(gateway: Gateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 600000000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )

    status = await asyncio.wait_for(reader.readline(), timeout=60)

    assert b" 401 " in status
    writer.close()


async def test_a_revoked_key_is_refused_within_the_caches_second(gateway: Gateway) -> None:
    account_id, key = await gateway.account(cents=0)
    assert (await gateway.client.get("/v1/jobs", headers=bearer(key))).status_code == 200

    await gateway.admin.execute(
        "UPDATE gateway.api_key SET revoked_at = now() WHERE account_id = $1", account_id
    )
    gateway.clock.elapsed += CACHE_SECONDS

    assert (await gateway.client.get("/v1/jobs", headers=bearer(key))).status_code == 401


async def test_a_request_continues_its_callers_trace(gateway: Gateway) -> None:
    continued = await gateway.client.get(
        "/v1/jobs", headers=gateway.headers | {"traceparent": TRACE}
    )
    fresh = await gateway.client.get("/v1/jobs", headers=gateway.headers | {"traceparent": "x"})

    assert continued.headers["traceparent"] == TRACE
    assert fresh.headers["traceparent"] != "x"
    assert continued.headers["x-request-id"] != fresh.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/jobs/not-a-uuid", 404, "not_found"),
        ("GET", f"/v1/jobs/{NOBODYS}", 404, "not_found"),
        ("GET", "/v1/jobs/%00", 404, "not_found"),
        ("GET", "/v1/jobs/%ff%fe", 404, "not_found"),
        ("GET", "/v1/datasets/%F0%9F%92%A9", 404, "not_found"),
        ("GET", "/api/v1/runs/" + "9" * 4000, 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("PUT", "/api/v1/runs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs?limit=0", 422, "validation_failed"),
        ("GET", "/v1/jobs?limit=101", 422, "validation_failed"),
        ("GET", "/v1/jobs?limit=ten", 422, "validation_failed"),
        ("GET", "/v1/jobs?limit=" + "9" * 5000, 422, "validation_failed"),
        ("GET", "/v1/jobs?limit=%ff", 422, "validation_failed"),
        ("GET", "/v1/jobs?cursor=x", 422, "validation_failed"),
        ("GET", "/v1/jobs?cursor=%ff%00", 422, "validation_failed"),
        ("GET", "/v1/jobs?cursor=WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzIzOjU5IiwiIl0", 422, None),
        ("GET", "/api/v1/runs?cursor=" + "A" * 3000, 422, "validation_failed"),
        ("GET", f"/v1/jobs/{NOBODYS}/metrics?since_step=1e999", 422, "validation_failed"),
        ("GET", f"/v1/jobs/{NOBODYS}/logs?since=" + "9" * 40, 422, "validation_failed"),
    ],
)
async def test_a_strange_request_gets_a_plain_refusal(
    gateway: Gateway, method: str, path: str, status: int, code: str | None
) -> None:
    answer = await gateway.client.request(method, path, headers=gateway.headers)

    assert answer.status_code == status, answer.text
    error = decoded(answer)["error"]
    assert code is None or error["code"] == code
    assert error["message"]
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{",
        b"[" * 200_000,
        b'{"type":' * 50_000,
        b'{"type": "finetune", "idempotency_key": "\xff\xfe"}',
        b'{"type": "finetune", "idempotency_key": "\\ud800"}',
        b'{"type": "finetune", "idempotency_key": "\\u0000", "dataset_id": "%s"}',
        b'{"type": "finetune", "hyperparams": {"lr": 1e999999}}',
        b'{"type": "finetune", "hyperparams": {"steps": ' + b"9" * 5000 + b"}}",
        b"\x00" * 100,
    ],
)
@pytest.mark.parametrize("headers", [JSON, FORM, {}])
async def test_a_broken_json_body_is_the_clients_fault(
    gateway: Gateway, body: bytes, headers: dict[str, str]
) -> None:
    answer = await gateway.client.post("/v1/jobs", headers=gateway.headers | headers, content=body)

    assert answer.status_code == 422, answer.text
    assert decoded(answer)["error"]["code"] == "validation_failed"


async def test_a_huge_json_body_is_refused_as_too_large(gateway: Gateway) -> None:
    answer = await gateway.client.post(
        "/v1/jobs", headers=gateway.headers | JSON, content=b" " * 2_000_000
    )

    assert answer.status_code == 413
    assert decoded(answer)["error"]["code"] == "payload_too_large"


@pytest.mark.parametrize(
    "headers",
    [
        JSON,
        FORM,
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "\xff".encode("latin-1")},
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/runs", "/v1/datasets"])
@pytest.mark.parametrize("body", [b"", b"--b", b"--b\r\n\r\n\xff", b"\x00" * 9000])
async def test_a_broken_form_is_the_clients_fault(
    gateway: Gateway, headers: dict[str, Any], path: str, body: bytes
) -> None:
    answer = await gateway.client.post(path, headers={**gateway.headers, **headers}, content=body)

    assert answer.status_code == 422, answer.text
    assert decoded(answer)["error"]["code"] == "validation_failed"


async def test_a_file_name_with_a_nul_is_the_clients_fault(gateway: Gateway) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\x00b"\r\n\r\n'
        b'{"text": "hello"}\n\r\n--b--\r\n'
    )

    answer = await gateway.client.post("/v1/datasets", headers=gateway.headers | FORM, content=body)

    assert answer.status_code in (201, 422), answer.text


async def test_a_service_that_does_not_answer_is_a_503_that_says_when_to_come_back(
    gateway: Gateway,
) -> None:
    def broken(_: telemetry_rpc.GetMetrics) -> telemetry_rpc.MetricPage:
        raise RuntimeError("scripted")

    gateway.answers["metrics"] = broken
    job_id = await _some_job(gateway)
    asked = "GET /v1/jobs/{job_id}/metrics"
    spans: list[span] = []
    record(Recorder(spans.append, 1.0))

    answer = await gateway.client.get(f"/v1/jobs/{job_id}/metrics", headers=gateway.headers)

    assert answer.status_code == 503
    assert decoded(answer)["error"]["code"] == "service_unavailable"
    assert answer.headers["retry-after"] == "1"

    async def failures() -> dict[str, str | None]:
        return {one.name: one.failure for one in spans}

    # The span of a request ends when its answer has been sent.
    ended = await eventually(failures, lambda names: asked in names)
    record(None)
    assert ended[asked] == "Unanswered"


async def _some_job(gateway: Gateway) -> str:
    answer: httpx.Response = await gateway.client.post(
        "/api/v1/runs",
        headers=gateway.headers,
        data={
            "model_id": "tiny-llama",
            "model_terms_accepted": "true",
            "data_policy_accepted": "true",
        },
        files={"dataset": ("a.jsonl", b'{"text": "hello"}\n')},
    )
    return str(decoded(answer)["run_id"])
