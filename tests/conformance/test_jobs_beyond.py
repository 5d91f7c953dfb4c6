"""What the Jobs API does beyond the reference, on the whole platform: a preview, checkpoints and
what they are good for, own adapters and merged models as a base, preferences, and an early end."""

import hashlib
import io
import tarfile
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import TIMEOUT, Platform
from tests.conformance.shapes import BOOL, COUNT, SHA256, TEXT, TIME, URL, expect, refused

QUICK = {"steps": 6, "seq_len": 64, "batch_size": 2, "lora_rank": 4, "checkpoint_every": 2}
PAIRS = "".join(
    f'{{"prompt": "{n} plus one is", "chosen": " {n + 1}.", "rejected": " I do not know."}}\n'
    for n in range(24)
)
CHECKPOINT = {
    "step": COUNT,
    "tokens_processed": COUNT,
    "size_bytes": COUNT,
    "sha256": SHA256,
    "created_at": TIME,
    "url": URL,
    "expires_in": 3600,
}


@pytest.fixture(scope="module")
def base(words: dict[str, str]) -> dict[str, str]:
    return {"base_model_id": words["<base model>"], "dataset_id": words["<data set>"]}


@pytest.fixture(scope="module")
def tuned(platform: Platform, base: dict[str, str]) -> dict[str, Any]:
    """A fine-tune that also made a merged model."""
    return platform.completed(platform.submit("finetune", QUICK | {"merged_model": True}, **base))


def files_of(platform: Platform, job: dict[str, Any]) -> dict[str, Any]:
    answer = platform.api.get(f"/v1/jobs/{job['id']}/download").raise_for_status()
    return {file["name"]: file for file in answer.json()["files"]}


def test_rows_are_previewed_as_training_sees_them(platform: Platform, base: dict[str, str]) -> None:
    path = f"/v1/datasets/{base['dataset_id']}/preview"
    query = {"model": "tiny-llama", "limit": 2, "seq_len": 64}
    token = {"id": COUNT, "text": TEXT, "trained": BOOL}
    row = {"text": TEXT, "tokens": [token], "trained_count": COUNT, "truncated_tokens": COUNT}
    first = expect(
        platform.api.get(path, params=query), 200, {"data": [row], "kind": TEXT, "has_more": True}
    )
    further = query | {"cursor": first["next_cursor"]}
    second = expect(platform.api.get(path, params=further), 200, {"data": [row]})
    assert [one["line"] for one in first["data"] + second["data"]] == [1, 2, 3, 4]
    for one in first["data"]:
        assert 0 < one["trained_count"] < one["token_count"] <= 64


def test_checkpoints_are_listed_and_what_the_link_gives_is_what_was_said(
    platform: Platform, tuned: dict[str, Any]
) -> None:
    found = expect(
        platform.api.get(f"/v1/jobs/{tuned['id']}/checkpoints"), 200, {"data": [CHECKPOINT]}
    )["data"]
    assert [one["step"] for one in found] == sorted((one["step"] for one in found), reverse=True)
    body = httpx.get(found[0]["url"], timeout=TIMEOUT).content
    assert hashlib.sha256(body).hexdigest() == found[0]["sha256"]
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert [name for name in archive.getnames() if name.endswith(".safetensors")]


def test_a_job_goes_on_from_a_checkpoint_of_another(
    platform: Platform, tuned: dict[str, Any], base: dict[str, str]
) -> None:
    begin = {"job_id": tuned["id"]}
    answer = platform.api.post(
        "/v1/jobs",
        json={
            "type": "finetune",
            "idempotency_key": "goes-on",
            "hyperparams": QUICK,
            "start_from": begin,
            **base,
        },
    )
    job = platform.completed(answer.json()["id"])
    assert job["start_from"]["job_id"] == tuned["id"]
    before = platform.api.get(f"/v1/jobs/{tuned['id']}/result").json()
    after = platform.api.get(f"/v1/jobs/{job['id']}/result").json()
    assert after["ppl_baseline"] < before["ppl_baseline"]


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_what_a_fine_tune_made_is_the_base_of_another(
    platform: Platform, tuned: dict[str, Any], base: dict[str, str], kind: str
) -> None:
    """The job has both; a merged model is taken first, so the adapter is one without it."""
    made = tuned
    if kind == "adapter":
        made = platform.completed(platform.submit("finetune", QUICK, **base))
    else:
        assert "merged-model.safetensors" in files_of(platform, tuned)
    model = platform.api.get(f"/v1/models/{made['output_model_id']}").json()
    assert model["available"] is True
    on_it = base | {"base_model_id": made["output_model_id"]}

    job = platform.completed(platform.submit("finetune", {**QUICK, "lora_rank": 32}, **on_it))

    first = platform.api.get(f"/v1/jobs/{made['id']}/result").json()
    second = platform.api.get(f"/v1/jobs/{job['id']}/result").json()
    assert second["ppl_baseline"] == pytest.approx(first["ppl_final"], rel=0.02)
    assert job["hyperparams"]["lora_rank"] == (4 if kind == "adapter" else 32)


def test_preferences_are_learnt(platform: Platform, base: dict[str, str]) -> None:
    uploaded = platform.api.post("/v1/datasets", files={"file": ("pairs.jsonl", PAIRS)})
    assert uploaded.json()["kind"] == "preference"
    on_pairs = base | {"dataset_id": uploaded.json()["id"]}
    shown = platform.api.get(
        f"/v1/datasets/{on_pairs['dataset_id']}/preview", params={"model": "tiny-llama", "limit": 1}
    ).json()["data"]
    assert [row["answer"] for row in shown] == ["chosen", "rejected"]

    job = platform.completed(platform.submit("finetune", QUICK | {"method": "dpo"}, **on_pairs))

    result = platform.api.get(f"/v1/jobs/{job['id']}/result").json()
    assert 0 <= result["preference"]["accuracy"] <= 1
    assert "beta" in job["recommended"]


def test_a_job_that_gets_no_better_ends_early_and_costs_its_part(
    platform: Platform, base: dict[str, str]
) -> None:
    idle = QUICK | {"steps": 400, "lr": 1e-12, "patience": 2, "eval_every": 1}
    before = platform.api.get("/api/v1/balance").json()["balance_cents"]

    job = platform.completed(platform.submit("finetune", idle, **base))

    result = platform.api.get(f"/v1/jobs/{job['id']}/result").json()
    assert result["stopped_early"] is True
    assert result["steps"] < 10
    share = job["price_cents"] * job["tokens_processed"] / job["tokens_planned"]
    assert share <= job["charge_cents"] < share + 1
    assert job["charge_cents"] == result["charge_cents"] < job["price_cents"]
    after = platform.api.get("/api/v1/balance").json()["balance_cents"]
    assert after >= before - job["price_cents"]
    refused(
        platform.api.post("/v1/jobs/estimate", json={"type": "train", **base, "hyperparams": idle}),
        422,
        "validation_failed",
    )
