"""Every point of a verb, one death each; then what the platform does about it, and the verdict."""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack

from msgspec import Struct

from libs.eventlog.connection import Connection, connect
from tests.support.failpoint_rooms import Case, Found, Place, Room, found, room_of
from tests.support.failpoint_verbs import Verb
from tests.support.failpoints import BROKE, DIED, LIVED, Arm, run_apart

FAREWELL_SECONDS = 90.0
MORTAL = "mortal"
ALIVE_SQL = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
MOST_POINTS = 2_000  # a verb that never ends would otherwise be killed for ever


class Row(Struct, kw_only=True):
    """Of one verb: its awaits, how many of its points were died at, and how many ended right."""

    verb: str
    awaits: int = 0
    killed: int = 0
    right: int = 0
    double: int = 0
    wrong: list[str] = []


class House:
    """The process that outlives the others: it prepares each case, and looks how it ended.

    Its event loop never runs while it forks.
    """

    def __init__(self, place: Place, admin_dsn: str) -> None:
        self._place = place
        self._admin_dsn = admin_dsn
        self._runner = asyncio.Runner()
        self._open = AsyncExitStack()

    def __enter__(self) -> "House":
        self._room, self._admin = self._runner.run(self._enter())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._open.aclose())
        self._runner.close()

    async def _enter(self) -> tuple[Room, Connection]:
        return (
            await self._open.enter_async_context(room_of(self._place, "outlives")),
            await connect(self._admin_dsn),
        )

    def prepare(self, verb: Verb) -> Case:
        return self._runner.run(verb.prepare(self._room))  # type: ignore[arg-type]

    def look(self, case: Case) -> Found:
        return self._runner.run(found(self._room, case))

    def attempt(self, verb: Verb, case: Case, die_at: int | None) -> int:
        async def work(arm: Arm) -> None:
            async with room_of(self._place, MORTAL, verb.needs) as room:
                arm()
                await verb.do(room, case)

        return run_apart(work, die_at=die_at)

    def repeat(self, verb: Verb, case: Case) -> int:
        """What the platform does afterwards, in a process that knows nothing of the dead one."""

        async def work(_: Arm) -> None:
            async with room_of(self._place, "repeats", verb.needs) as room:
                await verb.again(room, case)

        return run_apart(work)

    def bury(self) -> None:
        """Wait until PostgreSQL has noticed the death; a COMMIT that was sent before is done."""
        self._runner.run(self._buried())

    async def _buried(self) -> None:
        async with asyncio.timeout(FAREWELL_SECONDS):
            while await self._admin.fetchval(ALIVE_SQL, MORTAL):  # noqa: ASYNC110 (so, too)
                await asyncio.sleep(0.002)


def one_point(house: House, verb: Verb, row: Row, point: int) -> bool:
    """Die at this point of a new case. False: the verb has no such point."""
    case = house.prepare(verb)
    ended = house.attempt(verb, case, point)
    house.bury()
    repeated = house.repeat(verb, case)
    if ended == LIVED:
        row.awaits = point // 2
    else:
        row.killed += 1
    seen = house.look(case)
    if len(seen.charges) > 1 or len(seen.refunds) > 1:
        row.double += 1
    if ended != BROKE and repeated == LIVED and seen in verb.right:
        row.right += ended == DIED
    else:
        row.wrong.append(f"{verb.name}, point {point} ({ended}, {repeated}): {seen}")
    return ended == DIED


def kill_everywhere(house: House, verb: Verb) -> Row:
    """Die at every point, until the verb lives on to its end."""
    row = Row(verb=verb.name)
    point = 1
    while one_point(house, verb, row, point):
        point += 1
        assert point < MOST_POINTS, f"{verb.name} has no end"
    return row


def kill_at(house: House, verb: Verb, points: Iterable[int]) -> Row:
    row = Row(verb=verb.name)
    for point in points:
        one_point(house, verb, row, point)
    return row


def table(rows: Iterable[Row]) -> str:
    """As a person reads it."""
    lines = [f"{'verb':44} {'awaits':>6} {'killed':>6} {'right':>6} {'double':>6}"]
    lines += [f"{r.verb:44} {r.awaits:6} {r.killed:6} {r.right:6} {r.double:6}" for r in rows]
    return "\n".join(lines)
