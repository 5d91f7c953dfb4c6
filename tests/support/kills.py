"""Jobs under which processes are killed, and what must hold of them afterwards."""

import hashlib
import threading
from typing import Any

import httpx

from tests.support.journey import RUN_SECONDS, Json, User, fetch, sample_rows
from tests.support.local_stack import LocalStack, eventually

ROWS = 200
STEPS = 80
TELEMETRY_SECONDS = 90.0  # what a killed process had in hand is delivered again after ten
ASK_PAUSE = 0.1  # seconds
CHECKPOINT = "job.checkpointed"
ADAPTER = "adapter_model.safetensors"

HYPERPARAMS: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 4,
    "seq_len": 128,
    "checkpoint_every": 10,
    "eval_every": 20,
    "seed": 11,
}


def expected_points(steps: int) -> list[tuple[int, str]]:
    """Every step has its point; the held-out rows are measured before, at intervals, at the end."""
    evaluations = {*range(0, steps, HYPERPARAMS["eval_every"]), steps}
    train = [(step, "train") for step in range(1, steps + 1)]
    return sorted([*train, *((step, "eval") for step in evaluations)])


class Asking:
    """A client that asks all the time, and how it was answered: statuses, 0 for no answer."""

    def __init__(self, user: User, path: str) -> None:
        self.answers: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(user.api, path))

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self, api: httpx.Client, path: str) -> None:
        while not self._over.wait(ASK_PAUSE):
            try:
                self.answers.append(api.get(path).status_code)
            except httpx.TransportError:
                self.answers.append(0)


class Jobs:
    """Fine-tunes of one data set with the same hyperparameters, so that all give one result."""

    def __init__(self, stack: LocalStack) -> None:
        self.user = User(stack)
        self.stack = stack
        self._dataset_id = self.user.upload(sample_rows(ROWS))

    def submit(self) -> str:
        return self.user.submit_job(self._dataset_id, **HYPERPARAMS)

    def whole(self, job_id: str) -> Json:
        """Wait for the end: completed, charged once, with a point for every step."""
        user = self.user
        job = user.until_completed(job_id)
        assert job["charge_cents"] == job["price_cents"]
        kinds = user.kinds(job_id)
        once = ("payment.reserved", "payment.captured", "job.trained", "job.completed")
        assert {kind: kinds.count(kind) for kind in once} == dict.fromkeys(once, 1)
        expected = expected_points(STEPS)
        eventually(
            lambda: sorted((p["step"], p["phase"]) for p in user.points(job_id)),
            lambda points: points == expected,
            TELEMETRY_SECONDS,
            f"the points {expected}",
        )
        return job

    def adapter(self, job_id: str) -> bytes:
        """The downloaded weights, checked against the SHA-256 that was published."""
        file = self.user.files(job_id)[ADAPTER]
        weights = fetch(file["url"])
        assert hashlib.sha256(weights).hexdigest() == file["sha256"]
        return weights

    def killed_once(self, job_id: str, name: str, after_step: int) -> Json:
        """Kill one process when the job is past a step; the job, which must be whole."""
        user = self.user
        user.until_step(job_id, after_step)
        # A checkpoint is stored beside the training, which goes on.
        eventually(
            lambda: user.kinds(job_id), lambda kinds: CHECKPOINT in kinds, RUN_SECONDS, CHECKPOINT
        )
        self.stack.kill(name)
        self.stack.recovered()
        return self.whole(job_id)
