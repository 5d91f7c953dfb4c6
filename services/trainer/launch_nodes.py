"""One run on several machines: torchrun here, and one on each whose agent (`node`) is there.

The trainer's own machine is node 0, whose first process tells and writes. A machine that fails or
falls silent ends the run, which then is tried again from its newest checkpoint like any other that
broke off: there is one way to resume, and it is the scheduler's.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import structlog
from msgspec.structs import replace as with_

from libs.contracts.training import TrainSpec
from services.trainer.journal import replace
from services.trainer.launch import Launcher, Training
from services.trainer.launch_torchrun import (
    ONE_PROCESS,
    ProcessTraining,
    how_many,
    start_group,
    write_spec,
)
from services.trainer.nodes import BEAT_SECONDS, Call, Here, Pulse, calls_of, read, rendezvous

LOOK_SECONDS = 0.2
TELL_SECONDS = 30.0  # between two log lines that nodes are missing
# The processes here see a connection break, and say what they know; then nothing more will come.
LAST_WORDS_SECONDS = 5.0
LOST = 1  # the exit status of a run that has lost a machine

logger = structlog.get_logger()


class NodesTraining:
    """``calls`` by the folder of each node. ``port``, where they meet, is held until the end."""

    def __init__(
        self,
        own: ProcessTraining,
        calls: dict[Path, Call],
        port: socket.socket,
        output: Path,
        monotonic: Callable[[], float],
    ) -> None:
        self._own = own
        self._calls = calls
        self._port = port
        self._output = output
        self._pulses = {folder: Pulse(monotonic) for folder in calls}
        self._status: int | None = None
        self._keeping = asyncio.create_task(self._keep())

    def ask_to_stop(self) -> None:
        self._own.ask_to_stop()  # the processes agree on the step after which they stop

    def kill(self) -> None:
        self._own.kill()

    async def ended(self) -> int:
        """When nothing is left here; agents end the rest as soon as they see their call gone."""
        await asyncio.shield(self._keeping)
        own = await self._own.ended()
        return own if self._status is None else self._status

    async def _keep(self) -> None:
        ending = asyncio.create_task(self._own.ended())
        beat = 0
        try:
            while not ending.done():
                beat += 1
                if trouble := await asyncio.to_thread(self._look_if_possible, beat):
                    await asyncio.wait({ending}, timeout=LAST_WORDS_SECONDS)
                    self._give_up(trouble)
                    await ending
                await asyncio.wait({ending}, timeout=BEAT_SECONDS)
        finally:
            self._port.close()
            for folder in self._calls:
                with contextlib.suppress(OSError):  # then its agent misses the count
                    (folder / "call.json").unlink()

    def _look_if_possible(self, beat: int) -> tuple[str, int] | None:
        try:
            return self._look(beat)
        except OSError as error:  # of the shared file system: no reason to end anything
            logger.warning("the work folder can't be used", error=repr(error))
            return None

    def _look(self, beat: int) -> tuple[str, int] | None:
        """Goes on calling. Gives what is wrong with a node, and the run's exit status."""
        for folder, call in self._calls.items():
            replace(folder / "call.json", with_(call, beat=beat))
            here = read(folder / "here.json", Here)
            if here is not None:
                self._pulses[folder].look(folder.name, here.beat)
            if here is not None and here.launch == call.launch and here.status:
                return f"node {folder.name} ended with status {here.status}", here.status
            if self._pulses[folder].is_lost:
                return f"node {folder.name} is silent", LOST
        return None

    def _give_up(self, trouble: tuple[str, int]) -> None:
        said, self._status = trouble
        logger.warning("a node is lost", node=said)
        self._own.kill()
        # Said in the log as well: a file system that is lost with the node keeps no run alive.
        with contextlib.suppress(OSError), self._output.open("a") as output:
            output.write(f"{said}\n")


class NodesLauncher:
    """``nodes`` machines with ``processes`` each (None: one a GPU, or one); this one is reached at
    ``address``. ``work_dir`` is where every machine sees it. ``alone`` launches what is one
    process's work."""

    def __init__(
        self,
        *,
        nodes: int,
        processes: int | None,
        address: str,
        work_dir: Path,
        alone: Launcher,
        monotonic: Callable[[], float],
        new_id: Callable[[], UUID],
        module: str = "services.trainer.train",
    ) -> None:
        self._others = nodes - 1
        self._processes = processes
        self._address = address
        self._folder = calls_of(work_dir)
        self._alone = alone
        self._monotonic = monotonic
        self._new_id = new_id
        self._module = module
        self._pulses: dict[Path, Pulse] = {}

    async def warm_up(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        await self._alone.warm_up()

    async def ready(self) -> None:
        """When enough agents are there, and free."""
        await self._find()

    async def launch(self, spec: TrainSpec, output: Path) -> Training:
        if spec.job_type in ONE_PROCESS:
            return await self._alone.launch(spec, output)
        folders = await self._find()
        file = write_spec(spec, output.with_name("spec.json"), self._processes)
        port = held_port(self._address)
        own = Call(
            beat=0,
            launch=self._new_id().hex,
            rank=0,
            nodes=1 + self._others,
            endpoint=f"{self._address}:{port.getsockname()[1]}",
            spec=str(file),
            processes=self._processes,
        )
        calls = {folder: with_(own, rank=rank) for rank, folder in enumerate(folders, 1)}
        options = [*how_many(self._processes), *rendezvous(own), "--address", self._address]
        options += ["--module", self._module]
        process = ProcessTraining(start_group(file, output, options))
        return NodesTraining(process, calls, port, output, self._monotonic)

    async def _find(self) -> list[Path]:
        asked, told = self._monotonic(), 0.0
        while len(free := await asyncio.to_thread(self._free)) < self._others:
            waited = self._monotonic() - asked
            if waited >= told + TELL_SECONDS:
                told = waited
                logger.warning("waiting for nodes", free=len(free), needed=self._others)
            await asyncio.sleep(LOOK_SECONDS)
        return free[: self._others]

    def _free(self) -> list[Path]:
        """The folders of agents that live and have nothing to do."""
        found = []
        for file in sorted(self._folder.glob("*/here.json")):
            pulse = self._pulses.setdefault(file.parent, Pulse(self._monotonic))
            here = read(file, Here)
            if here is not None and pulse.look("", here.beat).beats and here.is_free:
                found.append(file.parent)
        return found


def held_port(address: str) -> socket.socket:
    """Bound to a port of this machine, which no connection is given while it is open. It does not
    listen, so a server that sets SO_REUSEADDR, as torchrun's does, can (socket(7), Linux)."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((address, 0))
    return holder
