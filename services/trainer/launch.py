"""Where training runs: the protocol that an attempt speaks with whatever starts its processes.

What training tells, it writes into the run's folder, wherever it runs; a launcher only starts it,
lets it stop, ends it, and knows when nothing of it is left.
"""

from pathlib import Path
from typing import Protocol

from libs.contracts.training import TrainSpec


class Training(Protocol):
    """One run under way, of one process or of many."""

    def ask_to_stop(self) -> None:
        """Let it write a checkpoint and end. Harmless when it has ended."""

    def kill(self) -> None:
        """End all of it at once. Harmless when it has ended."""

    async def ended(self) -> int:
        """Its exit status; the negative number of a signal that killed it."""


class Launcher(Protocol):
    """Where training runs: here, or on machines that somebody else manages."""

    async def warm_up(self) -> None:
        """Do beforehand what a launch would wait for. Raises PreloadFailed."""

    async def ready(self) -> None:
        """Return when a launch would find what it needs: asked before each request for work, so
        that no job waits, or fails, for what is missing here. May be cancelled."""

    async def launch(self, spec: TrainSpec, output: Path) -> Training:
        """Begin a run. What it prints is appended to the file ``output``."""


class PreloadFailed(Exception):
    """The training code can't be imported; the text says what to look at."""
