"""The preview of a data set over HTTP: what a trainer is asked, and what is said without one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deploy.local.s3 import S3Settings
from libs.contracts.trainer_rpc import (
    GetPreview,
    NextRows,
    Preview,
    PreviewRefused,
    PreviewRow,
    PreviewToken,
)
from tests.integration.gateway_app import ROWS, Gateway, bearer, decoded, running_gateway
from tests.support.stack import Database, Nats

ROW = PreviewRow(
    line=3,
    answer=None,
    text="Yes.",
    tokens=(PreviewToken(7, "Yes", True), PreviewToken(8, ".", True)),
    token_count=2,
    trained_count=1,
    truncated_tokens=0,
    problem=None,
)


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.fixture(scope="module")
async def path(gateway: Gateway) -> str:
    answer = await gateway.client.post(
        "/v1/datasets", headers=gateway.headers, files={"file": ("rows.jsonl", ROWS)}
    )
    return f"/v1/datasets/{decoded(answer)['id']}/preview"


async def get(gateway: Gateway, path: str, **query: Any) -> httpx.Response:
    params = {"model": "tiny-llama"} | query
    return await gateway.client.get(path, headers=gateway.headers, params=params)


async def test_without_a_trainer_it_says_what_to_do(gateway: Gateway, path: str) -> None:
    gateway.answers.pop("preview", None)
    answer = await get(gateway, path)
    assert answer.status_code == 503
    assert "No trainer is running" in decoded(answer)["error"]["message"]
    assert "retry-after" in answer.headers


async def test_a_trainer_is_asked_for_the_rows_and_its_answer_is_shown(
    gateway: Gateway, path: str
) -> None:
    asked: list[GetPreview] = []

    def say(question: GetPreview) -> Preview:
        asked.append(question)
        return Preview(rows=(ROW,), following=NextRows(500, 9) if len(asked) == 1 else None)

    gateway.answers["preview"] = say

    first = decoded(await get(gateway, path, limit=2, seq_len=128))
    last = decoded(await get(gateway, path, cursor=first["next_cursor"]))

    assert (first["kind"], first["seq_len"], first["has_more"]) == ("messages", 128, True)
    assert first["data"][0]["tokens"] == [
        {"id": 7, "text": "Yes", "trained": True},
        {"id": 8, "text": ".", "trained": True},
    ]
    assert first["model"]["slug"] == "tiny-llama"
    assert (last["next_cursor"], last["has_more"]) == (None, False)
    assert [(one.offset, one.line, one.limit) for one in asked] == [(0, 1, 2), (500, 9, 5)]
    assert (await gateway.client.get(asked[0].dataset_url)).content == ROWS
    # The same as a job gets that says nothing.
    job = {"type": "finetune", "base_model_id": "tiny-llama", "dataset_id": first["dataset_id"]}
    estimate = await gateway.client.post("/v1/jobs/estimate", headers=gateway.headers, json=job)
    assert last["seq_len"] == decoded(estimate)["hyperparams"]["seq_len"]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 21},
        {"seq_len": 15},
        {"seq_len": "many"},
        {"cursor": "x"},
        {"cursor": "eyJvZmZzZXQiOi0xLCJsaW5lIjoxfQ"},
        {"cursor": "eyJvZmZzZXQiOjk5OTk5OTk5OSwibGluZSI6MX0"},
        {"cursor": "eyJvZmZzZXQiOjAsImxpbmUiOjB9"},
        {"model": ""},
        {"model": "no-such-model"},
        {"model": "llama-3.1-8b"},
    ],
)
async def test_what_makes_no_sense_is_refused(
    gateway: Gateway, path: str, query: dict[str, Any]
) -> None:
    gateway.answers["preview"] = Preview(rows=(), following=None)
    answer = await get(gateway, path, **query)
    assert answer.status_code == 422, answer.text


async def test_a_model_must_be_named(gateway: Gateway, path: str) -> None:
    answer = await gateway.client.get(path, headers=gateway.headers)
    assert answer.status_code == 422
    assert "model" in decoded(answer)["error"]["message"]


async def test_a_tokenizer_that_cannot_be_had_is_the_models_fault(
    gateway: Gateway, path: str
) -> None:
    gateway.answers["preview"] = PreviewRefused(reason="it has no tokenizer.json")
    answer = await get(gateway, path)
    assert decoded(answer)["error"]["code"] == "model_not_available"
    assert "no tokenizer.json" in decoded(answer)["error"]["message"]


async def test_another_accounts_rows_are_not_shown(gateway: Gateway, path: str) -> None:
    gateway.answers["preview"] = Preview(rows=(ROW,), following=None)
    _, stranger = await gateway.account(cents=0)
    query = {"model": "tiny-llama"}
    theirs = await gateway.client.get(path, headers=bearer(stranger), params=query)
    unknown = await get(gateway, f"/v1/datasets/{uuid4()}/preview")
    assert (theirs.status_code, unknown.status_code) == (404, 404)
