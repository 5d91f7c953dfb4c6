"""The trainer service as a process of its own, around training that is quick."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from deploy.local.program import clean_environment

GONE_SECONDS = 25.0  # Kubernetes gives a pod thirty; it leaves in five, if the machine is not busy


class Trainer:
    """The service's process, and what it writes. ``environment`` is what its next start will read;
    the first one reads ``more`` of it as well."""

    def __init__(self, folder: Path, nats_url: str, more: Mapping[str, str] = {}) -> None:
        self.work = folder / "work"
        self.models = folder / "models"
        self.log = folder / "trainer.log"
        self.environment = clean_environment() | {
            "TUNEYARD_NATS_URL": nats_url,
            "TUNEYARD_TRAINER_ID": "trainer-0",
            "TUNEYARD_WORK_DIR": str(self.work),
            "TUNEYARD_MODELS_DIR": str(self.models),
            **more,
        }
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.support.stand_in_trainer"]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, env=self.environment, stderr=log)

    def gone(self) -> bool:
        return self.process.poll() is not None

    def start_if_gone(self) -> None:
        if self.gone():
            self.process = self._start()

    def end(self) -> None:
        if not self.gone():
            self.process.kill()
            self.process.wait()

    def training_pids(self) -> set[int]:
        """The fork server's children: training processes under way."""
        return {
            child.pid
            for server in psutil.Process(self.process.pid).children()
            for child in server.children()
        }
