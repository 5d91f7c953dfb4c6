"""Start training processes warm: forked from a server that has torch and the models imported.

Imports are most of a small job's time (PERFORMANCE.md: 5.6 s spawned, 0.9 s forked), so they are
paid once, at the service's start. A forked process ends with the service, even by kill -9 of it.
"""

import asyncio
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from libs.contracts.training import TrainSpec
from services.trainer.launch import PreloadFailed
from services.trainer.tied import ORPHANED


class ForkedTraining:
    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        self._ended.set()

    def ask_to_stop(self) -> None:
        if not self._ended.is_set():
            self._process.terminate()

    def kill(self) -> None:
        if not self._ended.is_set():
            self._process.kill()

    async def ended(self) -> int:
        await self._ended.wait()
        status = self._process.exitcode
        assert status is not None
        return status


class ForkServerLauncher:
    """``entry`` is the function to run, as ``module:name``; ``preload`` a module of its imports."""

    def __init__(self, entry: str, preload: str) -> None:
        self._entry = entry
        self._preload = preload
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([preload])

    async def warm_up(self) -> None:
        """Start the fork server and wait until its imports are done.

        Raises PreloadFailed: the server itself passes over a module that can't be imported.
        """
        process = self._context.Process(target=importlib.import_module, args=(self._preload,))
        status: int | str
        try:
            await asyncio.to_thread(process.start)
            status = await ForkedTraining(process).ended()
        except (OSError, EOFError) as error:  # the server died of its imports
            status = repr(error)
        if status != 0:
            raise PreloadFailed(
                f"{self._preload} could not be imported ({status}): see the traceback above, "
                "and install the trainer's dependencies with `uv sync --extra trainer`."
            )

    async def ready(self) -> None:
        """Always: `launch` itself looks after the fork server."""

    async def launch(self, spec: TrainSpec, output: Path) -> ForkedTraining:
        await self.warm_up()  # 10 ms; after a crash of the fork server, its imports again
        process = self._context.Process(target=_run, args=(self._entry, spec, str(output)))
        process.start()  # not in a thread: a cancellation must not lose sight of the process
        return ForkedTraining(process)


def _run(entry: str, spec: TrainSpec, output: str) -> None:
    """In the forked process: lead its output to a file, tie it to the service, and train."""
    threading.Thread(target=_die_with_service, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the service's to handle
    descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    module, _, name = entry.partition(":")
    getattr(importlib.import_module(module), name)(spec)


def _die_with_service() -> None:
    # PR_SET_PDEATHSIG would tie it to the fork server, its parent, and not to the service.
    service = multiprocessing.parent_process()
    assert service is not None
    wait([service.sentinel])
    os._exit(ORPHANED)
