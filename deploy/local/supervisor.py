"""Keep programs running: start, watch, start again with backoff, and end in time.

One pid file per program in ``FOLDER/run``, one log in ``FOLDER/logs``. A program is started in a
session of its own, so that Ctrl-C in a terminal reaches only the supervisor, and so that what a
program left behind can be ended with it.
"""

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Iterable
from pathlib import Path

from deploy.local.program import Program, StackError, clean_environment

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0
STEADY_SECONDS = 10.0
"""A program that lived this long had not failed at its start: the backoff begins anew."""

RUN_STOP_SECONDS = 1.0
"""A program that runs to its end has nothing to put in order when it is broken off."""

STALE_GRACE_SECONDS = 3.0
STALE_POLL_SECONDS = 0.05
LARGEST_LOG_BYTES = 64 * 1024**2
"""A log larger than this is set aside (one generation) when its program is started."""

MARK = "TUNEYARD_STACK"
"""Every program carries its folder under this name, so that a pid file can be believed."""


def delay_before_restart(former_delay: float, lived_seconds: float) -> float:
    """Seconds to wait: doubling from the first delay up to the longest."""
    if lived_seconds >= STEADY_SECONDS or former_delay == 0:
        return FIRST_DELAY_SECONDS
    return min(former_delay * 2, LONGEST_DELAY_SECONDS)


class Supervisor:
    """``tell`` gets one line for whatever happens to a program. Used from one event loop, in the
    main thread (Linux ties a child's leash to the thread that started it)."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._processes: dict[str, Process] = {}
        self._programs: dict[str, Program] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        for part in ("run", "logs"):
            (folder / part).mkdir(mode=0o700, exist_ok=True)

    def pid_file(self, name: str) -> Path:
        return self._folder / "run" / f"{name}.pid"

    def log_file(self, name: str) -> Path:
        return self._folder / "logs" / f"{name}.log"

    async def start(self, program: Program) -> None:
        """Start a program and keep it running until `stop`. `StackError` if it cannot be run."""
        if shutil.which(program.argv[0]) is None:
            raise StackError(f"{program.name} cannot be started: {program.argv[0]} is missing.")
        try:
            process = await self._spawn(program)
        except OSError as error:
            raise StackError(f"{program.name} cannot be started: {error}.") from error
        self._programs[program.name] = program
        self._watches[program.name] = asyncio.create_task(self._watch(program, process))

    async def _watch(self, program: Program, process: Process) -> None:
        loop = asyncio.get_running_loop()
        delay = 0.0
        while True:
            started = loop.time()
            code = await process.wait()
            self._clear_away(program.name, process.pid)
            delay = delay_before_restart(delay, loop.time() - started)
            self._tell(f"{program.name} ended ({_ending(code)}); starting again in {delay:.1f} s")
            process = await self._start_again(program, delay)

    async def _start_again(self, program: Program, delay: float) -> Process:
        while True:
            await asyncio.sleep(delay)
            try:
                return await self._spawn(program)
            except OSError as error:
                delay = delay_before_restart(delay, 0)
                self._tell(f"{program.name}: {error}; trying again in {delay:.1f} s")

    async def run(self, program: Program) -> None:
        """Run a program to its end. `StackError` names its log unless it succeeds."""
        self._programs[program.name] = program
        process = await self._spawn(program)
        try:
            code = await process.wait()
        finally:
            await self._end(program.name, within_seconds=RUN_STOP_SECONDS)
        if code != 0:
            log = self.log_file(program.name)
            raise StackError(f"{program.name} failed ({_ending(code)}); its log is {log}.")

    async def _spawn(self, program: Program) -> Process:
        log = self._open_log(program.name)
        try:
            process = await asyncio.create_subprocess_exec(
                *program.identity.prefix,
                *_leash(program.stop_signal),
                *program.argv,
                env=clean_environment() | program.env | {MARK: str(self._folder)},
                user=program.identity.user,
                group=program.identity.user,
                extra_groups=None if program.identity.user is None else [],
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)
        self._processes[program.name] = process
        self.pid_file(program.name).write_text(f"{process.pid}\n")
        return process

    def _open_log(self, name: str) -> int:
        log = self.log_file(name)
        if log.exists() and log.stat().st_size > LARGEST_LOG_BYTES:
            log.rename(log.with_suffix(".log.1"))
        return os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def _clear_away(self, name: str, pid: int) -> None:
        """End what a dead program left running, and take its pid file away."""
        _signal_group(pid, signal.SIGKILL)
        self.pid_file(name).unlink(missing_ok=True)
        self._processes.pop(name, None)

    async def stop(self, names: Iterable[str], *, within_seconds: float) -> None:
        """Ask these programs to end, all at once; kill what is still there when time is up."""
        ours = [name for name in names if name in self._watches]
        watches = [self._watches.pop(name) for name in ours]
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await asyncio.gather(*(self._end(name, within_seconds) for name in ours))

    async def stop_all(self, *, within_seconds: float) -> None:
        await self.stop(list(self._watches), within_seconds=within_seconds)

    async def _end(self, name: str, within_seconds: float) -> None:
        process = self._processes.get(name)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self._programs[name].stop_signal)
        try:
            async with asyncio.timeout(within_seconds):
                await process.wait()
        except TimeoutError:
            self._tell(f"{name} did not stop within {within_seconds:.0f} s; killed")
            _signal_group(process.pid, signal.SIGKILL)
            await process.wait()
        self._clear_away(name, process.pid)


async def end_stale(folder: Path, tell: Callable[[str], None]) -> None:
    """End what a supervisor that was killed left running on this folder, by its pid files."""
    stale = {
        path: pid for path in (folder / "run").glob("*.pid") if (pid := process_of(path, folder))
    }
    for path, pid in stale.items():
        tell(f"ending {path.stem} (process {pid}) of an earlier run")
    for number in (signal.SIGTERM, signal.SIGKILL):
        stale = {path: pid for path, pid in stale.items() if process_of(path, folder)}
        for pid in stale.values():
            _signal_group(pid, number)
        for _ in range(int(STALE_GRACE_SECONDS / STALE_POLL_SECONDS)):
            if not any(_runs(pid) for pid in stale.values()):
                break
            await asyncio.sleep(STALE_POLL_SECONDS)
    for path in (folder / "run").glob("*.pid"):
        path.unlink()


def process_of(pid_file: Path, folder: Path) -> int | None:
    """The pid in the file if that process is alive and was started for this folder."""
    try:
        pid = int(pid_file.read_text())
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if f"{MARK}={folder}".encode() in environment.split(b"\0") else None


def _runs(pid: int) -> bool:
    """A process that is on its way out has no environment any more, and still holds its ports."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


@functools.cache
def _leash(on_supervisors_death: signal.Signals) -> tuple[str, ...]:
    """A prefix that makes Linux send this signal to the program when the supervisor dies, even
    by kill -9; empty where that is not possible: the next `end_stale` does it then."""
    prefix = ("setpriv", "--pdeathsig", on_supervisors_death.name.removeprefix("SIG"), "--")
    if shutil.which("setpriv") is None:
        return ()
    tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if tried.returncode == 0 else ()
