"""One platform for all three documents, and the work that is done on it once."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from msgspec import Struct

from deploy.local.services import TINY_LLAMA
from tests.conformance.reference import CREATED, SMALL, SUBMISSIONS, TRAIN, sent
from tests.conformance.shapes import expect
from tests.conformance.terminal import Terminal
from tests.support.journey import sample_rows
from tests.support.local_stack import LocalStack, local_stack

ROWS = 40  # enough for a held-out part; a run over them takes its fewest steps
END_SECONDS = 300.0
POLL = 0.25  # seconds between two questions; a thousand others share the account's rate
ENDED = ("completed", "failed", "cancelled")
TIMEOUT = 60.0
POOR_CENTS = 20  # less than the smallest plan, and than any job


@pytest.fixture(scope="package")
def stack() -> Iterator[LocalStack]:
    """The installation as it is started by ``just up``; it ends before another tier begins."""
    with local_stack() as running:
        yield running


class Platform(Struct, frozen=True, kw_only=True):
    """One account on the platform: its shell, and a client for requests that show only JSON."""

    stack: LocalStack
    terminal: Terminal
    api: httpx.Client

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        return found

    def ended(self, job_id: str) -> dict[str, Any]:
        """The job once it has ended, and its payment with it."""
        until = time.monotonic() + END_SECONDS
        while (job := self.job(job_id))["status"] not in ENDED or job["charge_cents"] is None:
            assert time.monotonic() < until, f"no end: {job}"
            time.sleep(POLL)
        # All that its trainer said is stored: then its stream ends.
        with self.api.stream("GET", f"/v1/jobs/{job_id}/stream", timeout=END_SECONDS) as stream:
            assert "event: done" in list(stream.iter_lines())
        return job

    def completed(self, job_id: str) -> dict[str, Any]:
        job = self.ended(job_id)
        assert job["status"] == "completed", job
        return job

    def cancel(self, job_id: str) -> None:
        self.api.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()

    def submit(self, job_type: str, hyperparams: dict[str, Any], **fields: str) -> str:
        """The id of a job that is small enough to be waited for."""
        body = {"type": job_type, "idempotency_key": str(uuid4()), "hyperparams": hyperparams}
        answer = self.api.post("/v1/jobs", json=body | fields)
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id


def platform_for(stack: LocalStack, folder: Path, api_key: str) -> Platform:
    (folder / "training_data.jsonl").write_bytes(sample_rows(ROWS))
    return Platform(
        stack=stack,
        terminal=Terminal(folder, stack.base_url, api_key),
        api=httpx.Client(
            base_url=stack.base_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=TIMEOUT,
        ),
    )


@pytest.fixture(scope="package")
def platform(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """The account that the installation begins with."""
    key = stack.credentials.api_key
    return platform_for(stack, tmp_path_factory.mktemp("terminal"), key)


@pytest.fixture(scope="package")
def poor(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Another account, which can pay for nothing."""
    _, key = stack.new_account(POOR_CENTS)
    return platform_for(stack, tmp_path_factory.mktemp("poor"), key)


@pytest.fixture(scope="package")
def base_model_id(platform: Platform) -> str:
    """The UUID of the development base model."""
    models = platform.api.get("/v1/base-models").raise_for_status().json()["data"]
    (found,) = [model["id"] for model in models if model["slug"] == TINY_LLAMA]
    return str(found)


@pytest.fixture(scope="package")
def dataset_id(platform: Platform) -> str:
    """The UUID of a data set of the account."""
    answer = platform.api.post(
        "/v1/datasets", files={"file": ("training_data.jsonl", sample_rows(ROWS))}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="package")
def words(base_model_id: str, dataset_id: str) -> dict[str, str]:
    return {"<base model>": base_model_id, "<data set>": dataset_id}


@pytest.fixture(scope="package")
def grown(platform: Platform, words: dict[str, str]) -> dict[str, Any]:
    """The train job, completed."""
    request = json.loads(TRAIN) | {"idempotency_key": "small-run-1"}
    request["hyperparams"] |= SMALL["train"]
    created = expect(sent(platform.api, "/v1/jobs", json.dumps(request), words), 201, CREATED)
    return platform.completed(created["id"])


@pytest.fixture(scope="package")
def jobs(
    platform: Platform, words: dict[str, str], grown: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The three jobs, completed: one grows the base model, one adapts what has grown, and one
    shrinks it."""
    own = words | {"<base model>": grown["output_model_id"]}
    made = {}
    for job_type in ("finetune", "contract"):
        request = json.loads(SUBMISSIONS[job_type]) | {"idempotency_key": f"small-{job_type}"}
        request["hyperparams"] |= SMALL[job_type]
        answer = sent(platform.api, "/v1/jobs", json.dumps(request), own)
        made[job_type] = expect(answer, 201, CREATED)["id"]
    done = {job_type: platform.completed(job_id) for job_type, job_id in made.items()}
    return {"train": grown} | done
