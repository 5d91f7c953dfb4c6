"""An agent: joins this machine to the runs of a trainer on another one.

    TUNEYARD_WORK_DIR=... TUNEYARD_NODE_ADDRESS=... python -m services.trainer.node

It sees the trainer's work folder and models at the same paths, on a shared file system, and needs
nothing else: no NATS, no secret. It runs torchrun while it is called, and ends it when the call is
gone or the trainer's count stands still.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec import Struct

from libs.contracts.base import ShortText
from libs.observability.logs import configure_logs
from libs.settings import SettingsError, decode_settings
from services.trainer.journal import replace
from services.trainer.launch_torchrun import how_many, start_group
from services.trainer.nodes import BEAT_SECONDS, Call, Here, Pulse, calls_of, read, rendezvous

POLL_SECONDS = 0.2  # what a launch waits for at most, twice
GOODBYE_SECONDS = 2.0  # for a file system that may hang
STOP_GRACE_SECONDS = 10.0  # for the step under way and a checkpoint, as an attempt's

logger = structlog.get_logger()


class Settings(Struct, frozen=True, kw_only=True):
    """``node_address`` is where other nodes reach this one; ``work_dir`` is the trainer's."""

    work_dir: str
    node_address: ShortText
    log_level: str = "info"


class Agent:
    """``module`` is the program of each process. It is the agent's to say: whoever can write to the
    shared folder may call it to train, and to nothing else."""

    def __init__(
        self,
        work_dir: Path,
        address: str,
        monotonic: Callable[[], float],
        module: str = "services.trainer.train",
    ) -> None:
        self._module = module
        self._folder = calls_of(work_dir) / address
        self._address = address
        self._monotonic = monotonic
        self._pulse = Pulse(monotonic)
        self._here = Here(beat=0)
        self._told_at = -BEAT_SECONDS
        self._process: subprocess.Popen[bytes] | None = None

    async def run(self, leaving: asyncio.Event) -> None:
        """Until it is to leave: then the run under way is let stop with a checkpoint."""
        turning = asyncio.create_task(self._turns())
        left = asyncio.create_task(leaving.wait())
        await asyncio.wait({turning, left}, return_when=asyncio.FIRST_COMPLETED)
        turning.cancel()  # it may hang on the file system, and with it a thread
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await turning
        if self._process is not None:
            self._process.terminate()
        with contextlib.suppress(OSError):  # a timeout is one
            async with asyncio.timeout(GOODBYE_SECONDS):
                await asyncio.to_thread((self._folder / "here.json").unlink)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, STOP_GRACE_SECONDS)
            self._process.kill()

    async def _turns(self) -> None:
        while True:
            try:
                await self._turn()
            except OSError as error:  # of the shared file system: no reason to end anything
                logger.warning("the work folder can't be used", error=repr(error))
            await asyncio.sleep(POLL_SECONDS)

    async def _turn(self) -> None:
        """What touches the file system is done in a thread: a mount that hangs, hangs whoever
        asks. Processes are started by the main thread, which they are tied to."""
        before = self._here
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        call = await asyncio.to_thread(read, self._folder / "call.json", Call)
        lives = call is not None and self._pulse.look(call.launch, call.beat).beats
        if self._process is not None:
            wanted = call is not None and call.launch == self._here.launch and lives
            await self._attend(self._process, wanted)
        is_new = call is not None and call.launch != self._here.launch
        if self._process is None and call is not None and is_new and lives:
            self._join(call)
        if self._here is not before or self._monotonic() - self._told_at >= BEAT_SECONDS:
            self._here = Here(
                beat=self._here.beat + 1, launch=self._here.launch, status=self._here.status
            )
            await asyncio.to_thread(replace, self._folder / "here.json", self._here)
            self._told_at = self._monotonic()

    async def _attend(self, process: "subprocess.Popen[bytes]", wanted: bool) -> None:
        if not wanted and process.poll() is None:
            logger.info("the call is gone: ending its processes")
            process.kill()
            await asyncio.to_thread(process.wait)
        if (status := process.poll()) is not None:
            logger.info("processes ended", exit_status=status)
            self._process = None
            self._here = Here(beat=self._here.beat, launch=self._here.launch, status=status)

    def _join(self, call: Call) -> None:
        logger.info("joining a run", launch=call.launch, rank=call.rank, endpoint=call.endpoint)
        options = [*how_many(call.processes), *rendezvous(call), "--address", self._address]
        options += ["--module", self._module]
        # Absolute, so that no path is taken for an option.
        self._process = start_group(Path(call.spec).absolute(), None, options)
        self._here = Here(beat=self._here.beat, launch=call.launch)


async def main() -> None:
    settings = decode_settings(Settings, os.environ)
    configure_logs("node", settings.log_level)
    leaving = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leaving.set)
    await Agent(Path(settings.work_dir), settings.node_address, time.monotonic).run(leaving)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SettingsError as error:
        sys.exit(str(error))
