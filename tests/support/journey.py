"""A user of the HTTP API: submits, follows, cancels, downloads. Knows nothing of the inside."""

import tarfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from deploy.local.services import ROOT, TINY_LLAMA
from tests.support.local_stack import LocalStack, eventually

SAMPLE = ROOT / "deploy/local/samples/training_data.jsonl"
HELD_OUT = ROOT / "deploy/local/samples/heldout.jsonl"
ENDED = ("completed", "failed", "cancelled")
RUN_SECONDS = 240.0  # for the longest job of a test, on a busy machine
SETTLE_SECONDS = 90.0
RETRY_SECONDS = 120.0  # how long a question may go unanswered while a process is replaced
RETRY_PAUSE = 0.1

Json = dict[str, Any]


def sample_rows(count: int) -> bytes:
    """The first rows of the sample data set."""
    lines = SAMPLE.read_bytes().splitlines(keepends=True)[:count]
    assert len(lines) == count
    return b"".join(lines)


def run_form(dataset: bytes, **fields: str) -> dict[str, Any]:
    """The multipart request of ``POST /api/v1/runs``, as keyword arguments of an httpx call."""
    accepted = {"model_terms_accepted": "true", "data_policy_accepted": "true"}
    return {
        "files": {"dataset": ("training_data.jsonl", dataset)},
        "data": {"model_id": TINY_LLAMA} | accepted | fields,
    }


class User:
    """One account's key. Questions are repeated while the platform mends itself."""

    def __init__(self, stack: LocalStack, api_key: str | None = None) -> None:
        key = api_key or stack.credentials.api_key
        self.headers = {"Authorization": f"Bearer {key}"}
        self.api = httpx.Client(base_url=stack.base_url, headers=self.headers, timeout=60)

    def get(self, path: str, **query: int) -> Any:
        """The decoded answer to a question that must succeed in the end."""
        end = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                answer = self.api.get(path, params=query)
                if answer.status_code == 200:
                    return answer.json()
                seen = f"{answer.status_code} {answer.text}"
                assert answer.status_code == 503, f"{path}: {seen}"
            except httpx.TransportError as error:
                seen = repr(error)
            assert time.monotonic() < end, f"{path}: {seen}"
            time.sleep(RETRY_PAUSE)

    def submit_run(self, dataset: bytes, key: str | None = None, **fields: str) -> Json:
        """Runs API: the accepted run."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        answer = self.api.post("/api/v1/runs", headers=headers, **run_form(dataset, **fields))
        assert answer.status_code == 201, answer.text
        created: Json = answer.json()
        return created

    def upload(self, dataset: bytes) -> str:
        """Jobs API: the id of a stored data set."""
        answer = self.api.post("/v1/datasets", files={"file": ("training_data.jsonl", dataset)})
        assert answer.status_code == 201, answer.text
        dataset_id: str = answer.json()["id"]
        return dataset_id

    def submit_job(self, dataset_id: str, **hyperparams: Any) -> str:
        """Jobs API: the id of the accepted fine-tune."""
        answer = self.api.post(
            "/v1/jobs",
            json={
                "type": "finetune",
                "idempotency_key": str(uuid4()),
                "base_model_id": TINY_LLAMA,
                "dataset_id": dataset_id,
                "hyperparams": hyperparams,
            },
        )
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def job(self, job_id: str) -> Json:
        found: Json = self.get(f"/v1/jobs/{job_id}")
        return found

    def cancel(self, job_id: str) -> Json:
        answer = self.api.post(f"/v1/jobs/{job_id}/cancel")
        assert answer.status_code == 200, answer.text
        job: Json = answer.json()
        return job

    def balance(self) -> int:
        cents: int = self.get("/api/v1/balance")["balance_cents"]
        return cents

    def until_step(self, job_id: str, step: int) -> None:
        """Wait until training is past a step."""
        eventually(
            lambda: self.get(f"/v1/jobs/{job_id}/metrics", since_step=step)["count"],
            bool,
            RUN_SECONDS,
            f"step {step} of {job_id}",
        )

    def until_running(self, job_id: str) -> None:
        eventually(
            lambda: self.job(job_id), lambda job: job["status"] == "running", RUN_SECONDS, "a start"
        )

    def until_told(self, job_id: str) -> None:
        """Wait until all that the job's trainer said is stored: then its stream ends."""
        path = f"/v1/jobs/{job_id}/stream"
        with self.api.stream("GET", path, timeout=RUN_SECONDS) as stream:
            assert "event: done" in list(stream.iter_lines())

    def until_ended(self, job_id: str) -> Json:
        """The job once it has ended and its payment is settled."""
        ended: Json = eventually(
            lambda: self.job(job_id), lambda job: job["status"] in ENDED, RUN_SECONDS, "an end"
        )
        eventually(
            lambda: self.kinds(job_id),
            lambda kinds: "payment.captured" in kinds or "payment.voided" in kinds,
            SETTLE_SECONDS,
            "a settled payment",
        )
        return ended

    def until_completed(self, job_id: str) -> Json:
        ended = self.until_ended(job_id)
        assert ended["status"] == "completed", ended
        return ended

    def events(self, job_id: str) -> list[Json]:
        found: list[Json] = self.get(f"/v1/jobs/{job_id}/events")
        return found

    def kinds(self, job_id: str) -> list[str]:
        return [event["kind"] for event in self.events(job_id)]

    def points(self, job_id: str) -> list[Json]:
        """Every metric point, page by page."""
        points: list[Json] = []
        page = self.get(f"/v1/jobs/{job_id}/metrics")
        while page["count"]:
            points += page["points"]
            page = self.get(f"/v1/jobs/{job_id}/metrics", since_step=page["latest_step"])
        return points

    def curve(self, job_id: str) -> list[tuple[int, str, float, float, float]]:
        """What training computed at each step: all of a point that is not about time."""
        return [
            (p["step"], p["phase"], p["loss"], p["lr"], p["grad_norm"]) for p in self.points(job_id)
        ]

    def download_run(self, run_id: str) -> tuple[Json, bytes]:
        """The archive's description, and the archive from its presigned URL, without a key."""
        answer = self.api.post(f"/api/v1/runs/{run_id}/artifacts/download")
        assert answer.status_code == 200, answer.text
        (artifact,) = answer.json()["artifacts"]
        return artifact, fetch(artifact["url"])

    def files(self, job_id: str) -> dict[str, Json]:
        """Jobs API: what can be downloaded of a completed job, by name."""
        found = self.get(f"/v1/jobs/{job_id}/download")
        return {file["name"]: file for file in found["files"]}


def fetch(url: str) -> bytes:
    answer = httpx.get(url, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.content


def unpack(archive: bytes, folder: Path) -> Path:
    """The model's folder of a downloaded ``artifacts.tar.gz``."""
    file = folder / "artifacts.tar.gz"
    file.write_bytes(archive)
    with tarfile.open(file, "r:gz") as tar:
        tar.extractall(folder / "artifacts", filter="data")
    return folder / "artifacts" / "model"
