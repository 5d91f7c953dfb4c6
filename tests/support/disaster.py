"""A stack that is lost while customers submit, and what they were told before."""

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from deploy.local import postgres
from deploy.local.program import free_port, wait_until
from deploy.local.services import ROOT, TINY_LLAMA
from deploy.local.state import Secrets, load
from deploy.local.supervisor import Supervisor
from tests.support.journey import User
from tests.support.local_stack import LocalStack, eventually

STEPS = 5
SUBMITTERS = 2
PAUSE = 0.05  # seconds; the machine has other things to do as well
SAY_SECONDS = 180.0


class Submissions:
    """Customers who submit jobs as fast as they are answered, from `start` until `stop`.

    ``acknowledged`` has each job with the moment of its 201; ``sent`` is when its request was.
    """

    def __init__(self, stack: LocalStack, user: User, dataset_id: str) -> None:
        self._url, self._headers, self._dataset_id = stack.base_url, user.headers, dataset_id
        self.acknowledged: dict[str, datetime] = {}
        self.sent: dict[str, datetime] = {}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._submit) for _ in range(SUBMITTERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Return when so many more were acknowledged."""
        goal = len(self.acknowledged) + count
        eventually(lambda: len(self.acknowledged), lambda n: n >= goal, SAY_SECONDS, "submissions")

    def _submit(self) -> None:
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=10) as api:
            while not self._over.is_set():
                sent = datetime.now(UTC)
                try:
                    answer = api.post("/v1/jobs", json=self._body())
                except httpx.TransportError:
                    continue  # the stack is gone: nothing was said
                if answer.status_code == 201:
                    job_id = answer.json()["id"]
                    self.sent[job_id], self.acknowledged[job_id] = sent, datetime.now(UTC)
                self._over.wait(PAUSE)

    def _body(self) -> dict[str, Any]:
        return {
            "type": "finetune",
            "idempotency_key": str(uuid4()),
            "base_model_id": TINY_LLAMA,
            "dataset_id": self._dataset_id,
            "hyperparams": {"steps": STEPS, "batch_size": 2, "seq_len": 64},
        }


class Archive:
    """``tuneyard-server archive FOLDER --synchronous`` as a process of its own."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self._output = folder.with_name("archive.output")
        command = [sys.executable, "-m", "deploy.server", "archive", str(folder), "--synchronous"]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--data", str(stack.folder)],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(
            self._output.read_text,
            lambda text: "archiving synchronously" in text or self._process.poll() is not None,
            SAY_SECONDS,
            "an archive",
        )
        assert self._process.poll() is None, self._output.read_text()

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def restore(folder: Path, new: Path, *more: str) -> str:
    """What ``tuneyard-server restore`` prints; it must succeed."""
    command = [sys.executable, "-m", "deploy.server", "restore", str(folder), "--data", str(new)]
    done = subprocess.run(
        [*command, *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def jobs_in(folder: Path) -> set[str]:
    """The jobs in the database of a stack that does not run."""
    known, port = load(folder / "secrets.json", Secrets), free_port()
    assert known is not None
    dsn = postgres.dsn(role=postgres.ADMIN, password=known.postgres_admin, port=port)
    supervisor = Supervisor(folder, print)
    await supervisor.start(postgres.program(folder / "postgres", port=port))
    try:
        await wait_until(
            lambda: postgres.answers(dsn),
            what="PostgreSQL",
            log=supervisor.log_file("postgres"),
            timeout_seconds=SAY_SECONDS,
        )
        connection = await asyncpg.connect(dsn)
        try:
            rows = await connection.fetch("SELECT id FROM log.job")
        finally:
            await connection.close()
    finally:
        await supervisor.stop_all(within_seconds=10)
    return {str(row["id"]) for row in rows}
