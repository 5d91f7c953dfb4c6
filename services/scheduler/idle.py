"""Who waits for work, and who waits for its turn. No clock, no I/O."""

import asyncio
from collections import deque
from contextlib import suppress
from uuid import UUID
from weakref import WeakValueDictionary


class Idle:
    """Trainers that wait for a job to be queued. Each job wakes one of them: if all looked, they
    would ask the queue a hundred times for one job."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enter(self) -> asyncio.Future[None]:
        """Wait from now on: a job that is queued while its caller looks is not missed."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        return waiter

    def leave(self, waiter: asyncio.Future[None], *, has_work: bool = False) -> None:
        """Wait no more. Who was woken and has work from elsewhere passes the news on."""
        if not waiter.done():
            self._waiting.remove(waiter)
            waiter.cancel()
        elif has_work:
            self.wake()

    def wake(self) -> None:
        """A job was queued. A trainer that it does not fit does not pass it on: those whom it may
        fit look again by themselves within half a second."""
        if self._waiting:
            self._waiting.popleft().set_result(None)

    @staticmethod
    async def woken(waiter: asyncio.Future[None], within_seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await asyncio.shield(waiter)


class InOrder:
    """What concerns one job happens one by one, in the order in which it came; different jobs do
    not wait for each other."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    def turn(self, job_id: UUID) -> asyncio.Lock:
        """To be held by ``async with``; gone when nobody holds it or waits for it."""
        return self._locks.setdefault(job_id, asyncio.Lock())
