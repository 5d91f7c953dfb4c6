"""What every process of a platform takes: memory and processor time, looked at again and again."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import msgspec
import psutil
from msgspec import Struct

EVERY = 1.0  # seconds between two looks
MIB = 2**20
WINDOW = 30.0  # seconds; medians over it, so that one large request is no growth


class Gauge(Struct, kw_only=True):
    """One process, with its children: when it was looked at (seconds), its memory (bytes that are
    its own) and processor time (seconds) then."""

    at: list[float]
    memory: list[int]
    cpu: list[float]

    def growth_mib(self, end: float) -> float:
        """By how much the last window before ``end`` lies above the one before that."""
        return (self._level(end - WINDOW, end) - self._level(end - 2 * WINDOW, end - WINDOW)) / MIB

    def _level(self, begin: float, end: float) -> float:
        seen = zip(self.at, self.memory, strict=True)
        return median([size for at, size in seen if begin <= at <= end] or [0])

    @property
    def cpu_seconds(self) -> float:
        return self.cpu[-1] - self.cpu[0]


def own_memory(process: psutil.Process) -> int:
    """Resident memory that is not shared with files or other processes' shared buffers, over the
    process and its children: PostgreSQL's buffers fill up by design, and count once at most."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            found = Path(f"/proc/{one.pid}/smaps_rollup").read_text()
            total += 1024 * int(found.split("\nAnonymous:")[1].split()[0])
    return total


def cpu_seconds(process: psutil.Process) -> float:
    """Of the process, its children, and the children that have ended."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += sum(times[:4])  # user, system, and both of children that have ended
    return total


@asynccontextmanager
async def watched(pids: Mapping[str, int]) -> AsyncIterator[dict[str, Gauge]]:
    """Look at these processes while the body runs; the gauges fill meanwhile."""
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    gauges = {name: Gauge(at=[], memory=[], cpu=[]) for name in processes}

    def look() -> None:
        for name, process in processes.items():
            gauge = gauges[name]
            with contextlib.suppress(psutil.NoSuchProcess):
                seen = (time.monotonic(), own_memory(process), cpu_seconds(process))
                gauge.at.append(seen[0])
                gauge.memory.append(seen[1])
                gauge.cpu.append(seen[2])

    over = asyncio.Event()

    async def look_again() -> None:
        while not over.is_set():
            await asyncio.to_thread(look)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await over.wait()
        await asyncio.to_thread(look)

    task = asyncio.create_task(look_again())
    try:
        yield gauges
    finally:
        over.set()
        await task


def service_pids(folder: Path) -> dict[str, int]:
    """Every program of a local installation, by name."""
    return {file.stem: int(file.read_text()) for file in sorted((folder / "run").glob("*.pid"))}


class Line(Struct, frozen=True):
    """Of a service's log."""

    level: str = ""
    event: str = ""
    error: str = ""


def complaints(logs: Path) -> list[str]:
    """What services have warned of, and how often."""
    found: Counter[tuple[str, str, str]] = Counter()
    for file in sorted(logs.glob("*.log")):
        for text in file.read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                line = msgspec.json.decode(text, type=Line)
                if line.level not in ("", "info", "debug"):
                    found[file.stem, line.event, line.error] += 1
    return [f"{name} {n} times: {event} {error}" for (name, event, error), n in found.items()]
