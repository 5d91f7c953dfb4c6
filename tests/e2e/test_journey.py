"""The main job over HTTP, with the requests of ``seeds/A-runs-api.txt``."""

import hashlib
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from msgspec import Struct

from deploy.local.services import ROOT, TINY_LLAMA
from tests.support.journey import HELD_OUT, Json, User, run_form, sample_rows, unpack
from tests.support.local_stack import LocalStack

FIRST_BALANCE = 10_000
ROWS = 300
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
EVALUATE_SECONDS = 120.0


class Journey(Struct, kw_only=True):
    """A run that has completed, and what was said on the way."""

    user: User
    created: Json
    run: Json
    job: Json

    @property
    def run_id(self) -> str:
        run_id: str = self.created["run_id"]
        return run_id


@pytest.fixture(scope="module")
def journey(stack: LocalStack) -> Journey:
    user = User(stack)
    answer = user.api.post(
        "/api/v1/runs",
        headers={
            "Idempotency-Key": "550e8400-e29b-41d4-a716-446655440000",
            "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
        },
        **run_form(sample_rows(ROWS), label="My first run"),
    )
    assert answer.status_code == 201, answer.text
    created = answer.json()
    early = user.api.post(f"/api/v1/runs/{created['run_id']}/artifacts/download")
    assert (early.status_code, early.json()["error"]["code"]) == (404, "not_found")
    job = user.until_completed(created["run_id"])
    user.until_told(created["run_id"])
    run = user.get(f"/api/v1/runs/{created['run_id']}")["run"]
    return Journey(user=user, created=created, run=run, job=job)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_the_catalogue_says_which_models_can_really_be_loaded(journey: Journey) -> None:
    models = {m["model_id"]: m for m in journey.user.get("/api/v1/models")["data"]}
    assert set(models) == {TINY_LLAMA, "llama-3.1-8b", "mistral-7b", "gemma-7b"}
    assert models[TINY_LLAMA]["available"] is True
    assert set(models[TINY_LLAMA]) >= {"name", "provider", "terms_url", "use_policy_url"}


def test_a_submitted_run_is_priced_and_paid_at_once(journey: Journey) -> None:
    created = journey.created
    assert UUID(created["run_id"])
    assert (created["status"], created["currency"]) == ("queued", "USD")
    assert created["plan_name"] == "Launch S"
    assert created["balance_after_cents"] == FIRST_BALANCE - created["price_cents"]


def test_the_same_request_again_is_the_same_run_and_costs_nothing(journey: Journey) -> None:
    user = journey.user
    before = user.balance()
    again = user.api.post(
        "/api/v1/runs",
        headers={"Idempotency-Key": "550e8400-e29b-41d4-a716-446655440000"},
        **run_form(sample_rows(ROWS), label="My first run"),
    )
    assert (again.status_code, again.json()) == (201, journey.created)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = user.api.post(
        "/api/v1/runs",
        headers={"Idempotency-Key": "550e8400-e29b-41d4-a716-446655440000"},
        **run_form(sample_rows(ROWS - 1), label="My first run"),
    )
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert user.balance() == before


def test_a_completed_run_shows_its_plan_price_and_times(journey: Journey) -> None:
    run = journey.run
    assert (run["status"], run["model_id"], run["label"]) == (
        "completed",
        TINY_LLAMA,
        "My first run",
    )
    assert (run["plan"], run["price_cents"]) == ("Launch S", journey.created["price_cents"])
    assert at(run["created_at"]) <= at(run["started_at"]) <= at(run["completed_at"])
    listed = journey.user.get("/api/v1/runs", limit=100)
    (item,) = [item for item in listed["data"] if item["run_id"] == journey.run_id]
    assert (item["status"], item["artifacts_available"]) == ("completed", True)
    assert at(item["artifacts_expires_at"]) > at(run["completed_at"])
    assert set(listed) == {"data", "next_cursor", "has_more"}


def test_the_balance_falls_by_the_price_once(journey: Journey) -> None:
    kinds = journey.user.kinds(journey.run_id)
    assert kinds.count("payment.reserved") == kinds.count("payment.captured") == 1
    assert journey.user.balance() == FIRST_BALANCE - journey.created["price_cents"]


def test_the_timeline_tells_every_transition_in_order(journey: Journey) -> None:
    events = journey.user.events(journey.run_id)
    assert all(set(event) == {"ts", "kind", "payload"} for event in events)
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    kinds = [event["kind"] for event in events]
    milestones = ["job.submitted", "job.leased", "job.started", "job.trained", "job.completed"]
    assert [kind for kind in kinds if kind in milestones] == milestones
    assert kinds.index("artifact.published") < kinds.index("job.completed")


def test_every_step_has_its_point_and_the_loss_falls(journey: Journey) -> None:
    points = journey.user.points(journey.run_id)
    train = [p for p in points if p["phase"] == "train"]
    assert [p["step"] for p in train] == list(range(1, journey.job["steps_total"] + 1))
    assert train[-1]["loss"] < train[0]["loss"]
    assert all(p["throughput"] > 0 for p in train)
    page = journey.user.get(f"/v1/jobs/{journey.run_id}/metrics", since_step=train[-2]["step"])
    assert {p["step"] for p in page["points"]} == {train[-1]["step"]}


def test_the_log_is_read_on_from_where_one_stopped(journey: Journey) -> None:
    path = f"/v1/jobs/{journey.run_id}/logs"
    whole = journey.user.get(path)
    assert whole["latest_seq"] == whole["lines"][-1]["seq"]
    middle = whole["lines"][len(whole["lines"]) // 2]["seq"]
    rest = journey.user.get(path, since=middle)
    assert rest["lines"] == [line for line in whole["lines"] if line["seq"] > middle]


def test_the_result_says_what_tuning_did_and_cost(journey: Journey) -> None:
    result = journey.user.get(f"/v1/jobs/{journey.run_id}/result")
    assert result["ppl_final"] < result["ppl_baseline"]
    assert result["ppl_delta_pct"] < 0
    assert result["cost_usd"] == journey.created["price_cents"] / 100
    assert result["params_after"] - result["params_before"] == result["params_delta"] > 0
    assert result["tokens_processed"] > 0


def test_the_download_is_what_was_published_and_peft_loads_it(
    stack: LocalStack, journey: Journey, tmp_path: Path
) -> None:
    artifact, archive = journey.user.download_run(journey.run_id)
    assert (artifact["artifact_type"], artifact["filename"]) == ("model", "artifacts.tar.gz")
    assert artifact["expires_in"] == 1800
    assert (len(archive), hashlib.sha256(archive).hexdigest()) == (
        artifact["size_bytes"],
        artifact["sha256"],
    )
    adapter = unpack(archive, tmp_path)
    before, after = evaluate(stack), evaluate(stack, "--adapter", str(adapter))
    assert after["tokens"] == before["tokens"] > 0
    assert after["ppl"] < before["ppl"]


def evaluate(stack: LocalStack, *arguments: str) -> dict[str, Any]:
    """Perplexity on the held-out data, with transformers and peft in a process of its own."""
    model = stack.folder / "models" / TINY_LLAMA
    command = (sys.executable, "-m", "services.trainer.evaluate")
    done = subprocess.run(
        [*command, "--model", str(model), "--data", str(HELD_OUT), *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=EVALUATE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.usefixtures("journey")
def test_one_trace_leads_from_the_request_to_the_trainers_lines(stack: LocalStack) -> None:
    for service in ("gateway", "scheduler", "trainer-0", "artifact"):
        lines = (stack.folder / "logs" / f"{service}.log").read_text().splitlines()
        mine = [line for line in lines if TRACE in line]
        assert mine, f"{service} has no line of the trace"
        assert {json.loads(line)["trace_id"] for line in mine} == {TRACE}


def test_another_accounts_run_cannot_be_told_from_none(journey: Journey, user: User) -> None:
    mine = user.api.get(f"/api/v1/runs/{journey.run_id}")
    nobodys = user.api.get(f"/api/v1/runs/{UUID(int=7)}")
    assert mine.status_code == nobodys.status_code == 404
    assert mine.json()["error"]["code"] == "not_found"
    strange = httpx.get(user.api.base_url.join("/api/v1/balance"))
    assert (strange.status_code, strange.json()["error"]["code"]) == (401, "invalid_api_key")


def test_the_log_of_it_all_holds(stack: LocalStack, journey: Journey) -> None:
    assert journey.run["status"] == "completed"
    stack.assert_the_log_holds()
