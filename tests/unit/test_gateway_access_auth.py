"""How often PostgreSQL is asked for a caller: once while a key is in use, and never in a crowd."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.gateway.access.auth import ASK_AGAIN, Authenticator
from services.gateway.access.key_text import key_of
from services.gateway.access.keys import CACHE_SECONDS
from services.gateway.access.limits import Limits, PlanLimits
from services.gateway.access.peppers import Peppers

NOON = datetime(2026, 3, 19, 12, 0, tzinfo=UTC)
PEPPERS = Peppers(b"pepper")
KEY = f"Bearer {key_of(bytes(32))}".encode()
LIMITS = Limits({"free": PlanLimits(requests_per_minute=600, burst=100, max_api_keys=3)})


class Rows:
    """Stands in for PostgreSQL: counts questions, and answers when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def fetchrow(self, *_: Any) -> dict[str, Any]:
        self.asked += 1
        await self.may_answer.wait()
        return {
            "id": UUID(int=1),
            "account_id": UUID(int=2),
            "scopes": ["read"],
            "last_used_at": NOON,
            "hashed_with": PEPPERS.mark,
            "plan": "free",
            "requests_per_minute": None,
        }


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds


def authenticator(rows: Rows, clock: Clock) -> Authenticator:
    tokens: Any = None
    return Authenticator(
        rows,
        peppers=PEPPERS,
        limits=LIMITS,
        id_tokens=tokens,
        now=lambda: NOON,
        monotonic=clock.monotonic,
    )


async def test_a_known_key_is_not_asked_for_again_within_its_time() -> None:
    rows, clock = Rows(), Clock()
    auth = authenticator(rows, clock)
    callers = [await auth.caller(KEY, "/v1/jobs") for _ in range(100)]

    assert rows.asked == 1
    assert len(set(map(id, callers))) == 1


async def test_of_a_crowd_one_request_asks_again_and_the_others_do_not_wait() -> None:
    rows, clock = Rows(), Clock()
    auth = authenticator(rows, clock)
    await auth.caller(KEY, "/v1/jobs")
    clock.seconds += CACHE_SECONDS * ASK_AGAIN
    rows.may_answer.clear()

    crowd = [asyncio.create_task(auth.caller(KEY, "/v1/jobs")) for _ in range(100)]
    await asyncio.sleep(0)
    waiting = [task for task in crowd if not task.done()]
    assert (rows.asked, len(waiting)) == (2, 1)

    clock.seconds += CACHE_SECONDS  # the answer is late: it counts from its question
    rows.may_answer.set()
    await asyncio.gather(*waiting)
    await auth.caller(KEY, "/v1/jobs")
    assert rows.asked == 3


async def test_a_key_is_never_believed_for_longer_than_its_time() -> None:
    rows, clock = Rows(), Clock()
    auth = authenticator(rows, clock)
    await auth.caller(KEY, "/v1/jobs")
    clock.seconds += CACHE_SECONDS * ASK_AGAIN
    rows.may_answer.clear()
    asking = asyncio.create_task(auth.caller(KEY, "/v1/jobs"))
    await asyncio.sleep(0)

    clock.seconds += CACHE_SECONDS * (1 - ASK_AGAIN)
    others = [asyncio.create_task(auth.caller(KEY, "/v1/jobs")) for _ in range(3)]
    await asyncio.sleep(0)
    assert [task.done() for task in (asking, *others)] == [False] * 4
    rows.may_answer.set()
    await asyncio.gather(asking, *others)
