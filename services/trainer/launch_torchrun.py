"""One run as several processes of this machine, under torchrun: usually one a GPU.

They start cold, which takes seconds; so what is one process's work goes on as before. Linux only.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from libs.contracts.training import TrainSpec
from services.trainer.launch import Launcher, Training

ONE_PROCESS = {"contract"}  # types of job that are not shared among processes


class ProcessTraining:
    """A child process. Its own children are tied to it (`tied`), so it is all there is to end."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._ended = asyncio.Event()
        self._descriptor = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._process.wait()
        self._ended.set()

    def ask_to_stop(self) -> None:
        if not self._ended.is_set():
            self._process.terminate()

    def kill(self) -> None:
        if not self._ended.is_set():
            self._process.kill()

    async def ended(self) -> int:
        await self._ended.wait()
        return self._process.returncode


class TorchrunLauncher:
    """``processes``: so many a run; None: one a GPU, or one. ``alone`` launches the rest.

    ``module`` is the program of each process; it is given the path of a spec.
    """

    def __init__(
        self,
        *,
        processes: int | None,
        alone: Launcher,
        module: str = "services.trainer.train",
    ) -> None:
        self._processes = processes
        self._alone = alone
        self._module = module

    async def warm_up(self) -> None:
        await self._alone.warm_up()

    async def ready(self) -> None:
        await self._alone.ready()

    async def launch(self, spec: TrainSpec, output: Path) -> Training:
        if spec.job_type in ONE_PROCESS:
            return await self._alone.launch(spec, output)
        file = write_spec(spec, output.with_name("spec.json"), self._processes)
        options = [*how_many(self._processes), "--module", self._module, "--standalone"]
        return ProcessTraining(start_group(file, output, options))


def write_spec(spec: TrainSpec, file: Path, processes: int | None) -> Path:
    """For each of the processes, its share of the threads."""
    threads = max(1, spec.threads // (processes or 1))
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, threads=threads)))
    return file


def how_many(processes: int | None) -> list[str]:
    return ["--processes", str(processes)] if processes else []


def start_group(
    spec: Path, output: Path | None, options: Sequence[str]
) -> "subprocess.Popen[bytes]":
    """torchrun, tied to this process; must be called by the thread that lasts, its main one."""
    tied = [sys.executable, "-m", "services.trainer.tied", str(os.getpid())]
    return subprocess.Popen(
        [
            *tied,
            "services.trainer.group",
            str(spec),
            *options,
            *(["--output", str(output)] if output else []),
        ],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal is the service's to handle
    )
