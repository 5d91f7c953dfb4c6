"""The files that a training process writes, as the service reads them while they change."""

import os
import shutil
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from libs.contracts.base import Count
from libs.contracts.results import RunResult
from services.trainer.tail import RunState, RunStatus

T = TypeVar("T", bound=Struct)


class _Progress(Struct, frozen=True):
    tokens_processed: Count


class CheckpointFolder(Struct, frozen=True):
    """A complete checkpoint; training removes it when two newer ones exist."""

    step: int
    path: Path

    def tokens_processed(self) -> int:
        progress = (self.path / "progress.json").read_bytes()
        return msgspec.json.decode(progress, type=_Progress).tokens_processed

    def snapshot(self, target: Path) -> "CheckpointFolder":
        """The same files by hard links, so that they last. Raises OSError if they are gone."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.path, target, copy_function=os.link)
        return CheckpointFolder(self.step, target)


class RunFolder(Struct, frozen=True):
    """``out_dir`` of a run."""

    path: Path

    def state(self) -> RunState | None:
        """None until the run has begun."""
        return _read(self.path / "state.json", RunState)

    def status(self) -> RunStatus | None:
        """None while the run lasts, and for ever if it was killed."""
        return _read(self.path / "status.json", RunStatus)

    def result(self) -> RunResult | None:
        return _read(self.path / "result.json", RunResult)

    def newest_checkpoint(self) -> CheckpointFolder | None:
        found = [
            CheckpointFolder(int(path.name.removeprefix("step-")), path)
            for path in (self.path / "checkpoints").glob("step-*")
        ]
        return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
