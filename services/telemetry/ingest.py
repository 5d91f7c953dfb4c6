"""Writing fast: what many messages brought is one statement, so they share its fsync.

As in the event log's group commit there is no timer: a group is whatever arrived while the last
one was written. A message is acknowledged after its rows are durable. One statement over JSON was
measured against one over arrays of columns, which asyncpg encodes value by value: an eighth of the
time in this process and a fifth more in PostgreSQL's, of 5,000 points. COPY into a
staging table was 2x to 10x slower than those arrays at 100 rows, 1.7x at 1,000, equal at 5,000.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from services.telemetry.model import Batch

MAX_ROWS = 5_000  # a statement of about 40 ms; larger ones gain little and delay everybody in them

Waiting = tuple[Sequence[Batch], asyncio.Future[None]]


class Ingest:
    """Batches for one table, which ``keep`` makes durable, a group at a time."""

    def __init__(self, keep: Callable[[Sequence[Batch]], Awaitable[None]]) -> None:
        self._keep = keep
        self._waiting: deque[Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def write(self, batches: Sequence[Batch]) -> None:
        """Durable when it returns. Raises what PostgreSQL, or the way to it, said."""
        if not batches:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((batches, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        await future

    async def _write_all(self) -> None:
        while self._waiting:
            await self._write(self._next_group())
        self._writing = None

    def _next_group(self) -> list[Waiting]:
        group = [self._waiting.popleft()]
        size = _rows(group[0])
        while self._waiting and (size := size + _rows(self._waiting[0])) <= MAX_ROWS:
            group.append(self._waiting.popleft())
        return group

    async def _write(self, group: Sequence[Waiting]) -> None:
        try:
            await self._keep([batch for batches, _ in group for batch in batches])
        except Exception as error:
            if isinstance(error, asyncpg.DataError) and len(group) > 1:
                for one in group:  # a value that PostgreSQL refuses is its own message's fault
                    await self._write([one])
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
        else:
            for _, future in group:
                if not future.done():
                    future.set_result(None)


def _rows(waiting: Waiting) -> int:
    return sum(len(batch.items) for batch in waiting[0])
