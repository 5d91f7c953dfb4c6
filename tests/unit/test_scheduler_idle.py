"""Who is woken for a job, and in which order the reports of one job have their effect."""

import asyncio
from uuid import UUID, uuid4

from services.scheduler.idle import Idle, InOrder

SECONDS = 60.0  # nobody waits so long unless something is wrong


async def test_each_job_wakes_the_one_who_has_waited_longest() -> None:
    idle = Idle()
    first, second, third = idle.enter(), idle.enter(), idle.enter()
    idle.wake()
    assert [first.done(), second.done(), third.done()] == [True, False, False]
    idle.wake()
    assert [second.done(), third.done()] == [True, False]


async def test_a_job_that_nobody_waits_for_wakes_nobody_later() -> None:
    idle = Idle()
    idle.wake()
    assert not idle.enter().done()


async def test_who_has_left_is_not_woken_in_the_place_of_another() -> None:
    idle = Idle()
    first, second = idle.enter(), idle.enter()
    idle.leave(first)
    idle.wake()
    assert second.done()


async def test_who_was_woken_and_has_work_already_passes_the_news_on() -> None:
    idle = Idle()
    first, second, third = idle.enter(), idle.enter(), idle.enter()
    idle.wake()  # while the first was looking, and found another job
    idle.leave(first, has_work=True)
    assert (second.done(), third.done()) == (True, False)
    idle.leave(third, has_work=True)
    assert not idle.enter().done()


async def test_waiting_ends_when_woken_and_after_its_time() -> None:
    idle = Idle()
    waiter = idle.enter()
    await asyncio.wait_for(idle.woken(waiter, within_seconds=0.0), SECONDS)
    assert not waiter.done()  # it can still be woken, as if it had not waited
    asyncio.get_running_loop().call_soon(idle.wake)
    await asyncio.wait_for(idle.woken(waiter, within_seconds=3_600.0), SECONDS)
    assert waiter.done()


class Book:
    """Notes who begins and ends; each waits in between until it is told to go on."""

    def __init__(self) -> None:
        self.order = InOrder()
        self.noted: list[str] = []
        self.go: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def send(self, name: str, job_id: UUID) -> None:
        self.go[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._handle(name, job_id))

    async def _handle(self, name: str, job_id: UUID) -> None:
        async with self.order.turn(job_id):
            self.noted.append(name)
            await self.go[name].wait()

    async def settled(self) -> list[str]:
        for _ in range(10):
            await asyncio.sleep(0)
        return self.noted


async def test_what_concerns_one_job_waits_for_what_came_before_and_nothing_else() -> None:
    book, job = Book(), uuid4()
    for name in ("started", "checkpointed", "finished"):
        book.send(name, job)
    book.send("of another", uuid4())
    assert await book.settled() == ["started", "of another"]
    book.go["finished"].set()
    book.go["started"].set()
    assert await book.settled() == ["started", "of another", "checkpointed"]
    book.go["checkpointed"].set()
    assert (await book.settled())[3:] == ["finished"]


async def test_who_fails_or_is_cancelled_lets_the_next_one_go_on() -> None:
    book, job = Book(), uuid4()
    for name in ("fails", "is cancelled", "goes on"):
        book.send(name, job)
    await book.settled()
    book.tasks["is cancelled"].cancel()
    assert await book.settled() == ["fails"]
    book.tasks["fails"].cancel()
    assert await book.settled() == ["fails", "goes on"]
    book.go["goes on"].set()
    await asyncio.wait_for(book.tasks["goes on"], SECONDS)
    book.send("later", job)
    assert (await book.settled())[2:] == ["later"]
