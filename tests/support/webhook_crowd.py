"""Many endpoints, each bad in its own way, and services that are killed while events come."""

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import nats
from msgspec import Struct

from deploy.local.nats import OPERATOR
from deploy.local.program import clean_environment
from libs.bus.streams import NUDGE
from libs.eventlog.append import statement
from libs.eventlog.connection import Connection, connect
from services.webhooks.model import GIVE_UP_ENDPOINT
from tests.support.jobs import first_append, submission
from tests.support.moved_webhooks import MovedClock
from tests.support.receiver import Answer, Behave, Endpoint, Receiver, always
from tests.support.stack import Database, Nats, Servers
from tests.support.webhook_room import ENDPOINT_SQL

GROUP = 64  # appends a statement
LOOK = 0.25


def sometimes(every: int, answer: Answer) -> Behave:
    """For one request in ``every``; which ones, is by the event and the attempt, not by chance."""
    return lambda request: (
        answer if zlib.crc32(f"{request.id}{request.number}".encode()) % every == 0 else Answer()
    )


def at_first(requests: int, answer: Answer, then: Answer = Answer()) -> Behave:  # noqa: B008
    return lambda request: answer if request.number <= requests else then


BUSY = Answer(status=429, headers={"Retry-After": "1"})
MOVED = Answer(status=302, headers={"Location": "/"})

# Behaviour, and how many endpoints of fifty have it.
KINDS: dict[str, tuple[int, Callable[[], Behave]]] = {
    "healthy": (25, always),
    "sometimes 500": (5, lambda: sometimes(50, Answer(status=500))),
    "sometimes 429": (3, lambda: sometimes(500, BUSY)),
    "sometimes resets": (3, lambda: sometimes(200, Answer(ends="reset"))),
    "sometimes drips": (2, lambda: sometimes(1_000, Answer(status=200, ends="drips"))),
    "sometimes hangs": (2, lambda: sometimes(1_000, Answer(ends="never"))),
    "first 500, then well": (2, lambda: at_first(300, Answer(status=500))),
    "first moved, then well": (2, lambda: at_first(300, MOVED)),
    "first hangs, then well": (2, lambda: at_first(20, Answer(ends="never"))),
    "well, then gone": (1, lambda: at_first(50, Answer(), Answer(status=410))),
    "always 404": (1, lambda: always(404)),
    "always moved": (1, lambda: always(302, headers={"Location": "/"})),
    "always hangs": (1, lambda: always(ends="never")),
}
NEVER = ("always 404", "always moved", "always hangs")
GONE = "well, then gone"


class Member(Struct, frozen=True, kw_only=True):
    id: UUID
    kind: str
    endpoint: Endpoint

    @property
    def accepts(self) -> bool:
        return self.kind not in NEVER and self.kind != GONE


class Place(Struct, kw_only=True):
    """Services as processes over real servers; ``timeout`` is their patience, in seconds of 15."""

    servers: Servers
    bus: Nats
    database: Database
    folder: Path
    clock: MovedClock
    receiver: Receiver
    sql: Connection
    log: Connection
    account_id: UUID
    timeout: float
    processes: dict[str, asyncio.subprocess.Process] = {}
    nudger: nats.NATS | None = None

    async def start(self, name: str) -> None:
        """``relay``, or ``webhooks`` and whatever begins so."""
        role = name.partition("-")[0]
        module = "libs.bus.relay" if role == "relay" else "tests.support.moved_webhooks"
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", module),
                env=clean_environment()
                | {
                    "TUNEYARD_DATABASE_URL": self.database.dsn(role),
                    "TUNEYARD_NATS_URL": self.bus.url(role),
                    "TEST_CLOCK": str(self.clock.file),
                    "TEST_TIMEOUT": str(self.timeout),
                }
                | ({"TUNEYARD_ALLOW_LOOPBACK": "true"} if role == "webhooks" else {}),
                stdout=log,
                stderr=log,
            )

    async def kill(self, name: str) -> None:
        """``kill -9``; ``nats`` is started again by its supervisor, a process by this."""
        if name == "nats":
            await self.servers.kill("nats")
            return
        self.processes[name].kill()
        await self.processes[name].wait()
        await self.start(name)

    async def join(self, path: str, kind: str, behave: Behave, *, keep: bool = False) -> Member:
        secret, id_ = uuid4().bytes * 2, uuid4()
        await self.sql.execute(
            ENDPOINT_SQL,
            *(id_, self.account_id, self.receiver.url(path), None, True, secret, None, None),
            datetime.now(UTC),
        )
        endpoint = self.receiver.add(path, secret, behave, keep=keep)
        return Member(id=id_, kind=kind, endpoint=endpoint)

    async def append(self, events: int) -> list[str]:
        """Submissions into the log, as fast as it takes them; the ids of their events."""
        ids: list[str] = []
        for first in range(0, events, GROUP):
            appends = [
                first_append(uuid4(), self.account_id, submission(), datetime.now(UTC))[0]
                for _ in range(min(GROUP, events - first))
            ]
            sql, values = statement(appends)
            await self.log.fetch(sql, *values)
            ids += [str(append.records[0].event_id) for append in appends]
        return ids

    async def nudge(self) -> None:
        """As whoever appends does, so that the relay need not look by itself."""
        if self.nudger is None:
            self.nudger = await nats.connect(self.bus.url(OPERATOR))
        await self.nudger.publish(NUDGE)

    async def skip(self, members: Sequence[Member]) -> None:
        """Move time until all deliveries to these are due, also those that a dead process had
        claimed."""
        due = await self.sql.fetchval(
            "SELECT max(greatest(d.next_at, e.held_until)) FROM webhooks.delivery d"
            " JOIN webhooks.endpoint e ON e.id = d.endpoint_id"
            " WHERE d.status = 'pending' AND e.id = ANY ($1::uuid[])",
            [member.id for member in members],
        )
        if due is not None and due > self.clock.now():
            self.clock.move(due - self.clock.now() + timedelta(seconds=1))


@asynccontextmanager
async def webhook_place(
    servers: Servers, bus: Nats, database: Database, folder: Path, *, timeout: float
) -> AsyncIterator[Place]:
    clock = MovedClock(file=folder / "clock")
    clock.file.write_text("0")
    sql, log = await connect(database.admin_dsn), await connect(database.admin_dsn)
    async with Receiver(clock.fresh).serving() as receiver:
        place = Place(
            servers=servers,
            bus=bus,
            database=database,
            folder=folder,
            clock=clock,
            receiver=receiver,
            sql=sql,
            log=log,
            account_id=uuid4(),
            timeout=timeout,
        )
        try:
            yield place
        finally:
            for process in place.processes.values():
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if place.nudger is not None:
                await place.nudger.close()
            await sql.close()
            await log.close()


async def crowd(place: Place, kinds: Mapping[str, int]) -> list[Member]:
    return [
        await place.join(f"/{kind.replace(' ', '-')}/{n}", kind, KINDS[kind][1]())
        for kind, count in kinds.items()
        for n in range(count)
    ]


async def survive(
    place: Place, members: Sequence[Member], events: int, kills: Mapping[float, str]
) -> list[str]:
    """Events happen, processes are killed when so much of everything has arrived, time is moved
    whenever nothing more comes by itself; until every member that ever accepts has accepted all.
    The ids of the events."""
    accepting = [member for member in members if member.accepts]
    left = sorted(kills.items())
    await place.start("relay")
    await place.start("webhooks")
    appending = asyncio.create_task(place.append(events))
    loop = asyncio.get_running_loop()
    requests, since = 0, loop.time()
    while (now := sum(len(one.endpoint.accepted) for one in accepting)) < events * len(accepting):
        if appending.done():
            appending.result()
        if left and now >= left[0][0] * events * len(accepting):
            await place.kill(left.pop(0)[1])
        if (count := sum(one.endpoint.count for one in accepting)) > requests:
            requests, since = count, loop.time()
        elif loop.time() - since > 2 * place.timeout and appending.done():
            # Nothing is in flight, so nothing comes by itself.
            await place.skip(accepting)
            since = loop.time()
        await asyncio.sleep(LOOK)
    assert not left
    return await appending


async def failing_days_pass(place: Place, members: Sequence[Member]) -> None:
    """Until those that never accepted anything are disabled."""
    place.clock.move(GIVE_UP_ENDPOINT + timedelta(minutes=1))
    ids = [member.id for member in members if member.kind in NEVER]
    enabled = "SELECT count(*) FROM webhooks.endpoint WHERE enabled AND id = ANY ($1::uuid[])"
    while await place.sql.fetchval(enabled, ids):  # noqa: ASYNC110
        await asyncio.sleep(LOOK)


async def assert_all_arrived(place: Place, members: Sequence[Member], ids: Sequence[str]) -> None:
    """Everything at whoever ever accepts, nothing forged, and health as it was shown."""
    health = {row["id"]: row for row in await place.sql.fetch("SELECT * FROM webhooks.endpoint")}
    for member in members:
        row, said = health[member.id], (member.kind, health[member.id])
        assert member.endpoint.forged == 0, said
        if member.accepts:
            assert member.endpoint.accepted.keys() == set(ids), said
            assert row["enabled"], said
        elif member.kind == GONE:
            assert (row["enabled"], row["disabled_reason"]) == (False, "gone"), said
        else:
            assert not member.endpoint.accepted, said
            assert (row["enabled"], row["disabled_reason"]) == (False, "failing"), said
