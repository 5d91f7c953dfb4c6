"""Group commit: concurrent appends share a transaction, so they share its fsync.

There is no timer. A batch is whatever waited while the last one was committed, so a lone writer
waits for nobody. A second lane works only when more than a full batch waits.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from libs.eventlog.append import Outcome, outcome, statement
from libs.eventlog.connection import BROKEN_OFF, Connection
from libs.eventlog.record import AlreadyHandled, Append, KeyTaken, VersionConflict
from libs.observability.metrics import BATCH
from libs.observability.spans import span

MAX_BATCH = 64  # beyond it a larger statement costs more than a second commit saves (measured)
LANES = 2
RECONNECT_DELAYS = (0.05, 0.2, 0.5, 1.0)  # PostgreSQL restarts in about a second

CONVENTIONAL = {"db.system.name": "postgresql"}
EXPECTED = (VersionConflict, AlreadyHandled, KeyTaken)

Connect = Callable[[], Awaitable[Connection]]


class LogUnavailable(Exception):
    """PostgreSQL did not confirm. The append may or may not have happened: load, then decide."""


class GroupCommit:
    """Appends of this process. ``on_commit`` is called after each commit (it nudges the relay)."""

    def __init__(self, connect: Connect, on_commit: Callable[[], None] = lambda: None) -> None:
        self._connect = connect
        self._on_commit = on_commit
        self._waiting: deque[tuple[Append, asyncio.Future[int]]] = deque()
        self._wake = [asyncio.Event() for _ in range(LANES)]
        self._lanes: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "GroupCommit":
        self._lanes = [asyncio.create_task(self._run(lane)) for lane in range(LANES)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        while self._waiting:
            _fail(self._waiting.popleft()[1], LogUnavailable("the log is closing"))

    async def append(self, append: Append) -> int:
        """Durable when it returns: the position of the append's first event.

        Raises VersionConflict, AlreadyHandled, KeyTaken, LogUnavailable, or asyncpg.DataError
        for a value that PostgreSQL refuses.
        """
        with span("append", attributes=CONVENTIONAL, expected=EXPECTED) as appending:
            appending.set(events=" ".join(record.type for record in append.records))
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting.append((append, future))
            self._wake[0].set()
            if len(self._waiting) > MAX_BATCH:
                self._wake[1].set()
            return await future

    async def _run(self, lane: int) -> None:
        connection: Connection | None = None
        wake = self._wake[lane]
        try:
            while True:
                await wake.wait()
                if not self._waiting or (lane > 0 and len(self._waiting) <= MAX_BATCH):
                    wake.clear()
                    continue
                connection = await self._connected(connection)
                size = min(len(self._waiting), MAX_BATCH)
                batch = [self._waiting.popleft() for _ in range(size)]
                try:
                    await self._commit(connection, batch)
                except asyncio.CancelledError:
                    _fail_all(batch, LogUnavailable("the log is closing"))
                    raise
        finally:
            if connection is not None:
                connection.terminate()

    async def _connected(self, connection: Connection | None) -> Connection:
        attempt = 0
        while connection is None or connection.is_closed():
            try:
                connection = await self._connect()
            except (*BROKEN_OFF, asyncpg.PostgresError) as error:
                while attempt >= len(RECONNECT_DELAYS) and self._waiting:
                    _fail(self._waiting.popleft()[1], LogUnavailable(str(error)))
                await asyncio.sleep(RECONNECT_DELAYS[min(attempt, len(RECONNECT_DELAYS) - 1)])
                attempt += 1
        return connection

    async def _commit(
        self,
        connection: Connection,
        batch: Sequence[tuple[Append, asyncio.Future[int]]],
    ) -> None:
        try:
            sql, values = statement([append for append, _ in batch])
            rows = await connection.fetch(sql, *values)
        except (*BROKEN_OFF, asyncpg.PostgresConnectionError) as error:
            connection.terminate()
            _fail_all(batch, LogUnavailable(str(error)))
            return
        except Exception as error:
            # One append can't be written, or conflicts in part. Nothing of the batch happened.
            if len(batch) > 1:
                for one in batch:
                    await self._commit(connection, [one])
                return
            if isinstance(error, asyncpg.SerializationError):
                error = VersionConflict(batch[0][0].records[0].stream)
            _fail_all(batch, error)
            return
        BATCH.record(len(batch))
        for row in rows:
            append, future = batch[row["n"]]
            _settle(future, outcome(row, append))
        self._on_commit()


def _settle(future: asyncio.Future[int], result: Outcome) -> None:
    if isinstance(result, Exception):
        _fail(future, result)
    elif not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[int], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _fail_all(batch: Sequence[tuple[Append, asyncio.Future[int]]], error: Exception) -> None:
    for _, future in batch:
        _fail(future, error)
