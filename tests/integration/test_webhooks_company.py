"""Many endpoints, many senders: nobody waits for another's slow receiver, nothing is lost."""

import threading
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from libs.eventlog.connection import connect
from services.webhooks.claims import AT_ONCE, AT_ONCE_FAILING, CLAIM, claim
from services.webhooks.claims import Room as Space
from services.webhooks.model import GIVE_UP_ENDPOINT, PAUSE
from services.webhooks.resolver import look_up
from tests.support.receiver import Answer, Request, always
from tests.support.stack import Database
from tests.support.waiting import eventually, held_open
from tests.support.webhook_room import Room, webhook_room

HANGING = 10
EVENTS = 30
PATIENT = 60.0  # seconds


@pytest.fixture
async def room(fresh_database: Database) -> AsyncIterator[Room]:
    async with webhook_room(fresh_database) as room:
        yield room


async def test_endpoints_that_hang_hold_up_nobody_else(room: Room) -> None:
    hanging = [await room.endpoint(f"/{n}", always(ends="never")) for n in range(HANGING)]
    _, healthy = await room.endpoint("/healthy", always())
    for _ in range(EVENTS):
        await room.happen()
    async with room.sender():
        await room.until(lambda: len(healthy.accepted) == EVENTS)
        for _, endpoint in hanging:
            await room.until(lambda endpoint=endpoint: endpoint.in_flight == AT_ONCE)
    assert [one.most_at_once for _, one in hanging] == [AT_ONCE] * HANGING


async def test_an_endpoint_that_fails_is_asked_less_at_once_until_it_accepts(room: Room) -> None:
    at_once: list[int] = []

    def behave(request: Request) -> Answer:
        at_once.append(endpoint.in_flight)
        return Answer(ends="never") if request.number <= AT_ONCE + AT_ONCE_FAILING else Answer()

    room.timeout = PATIENT
    _, endpoint = await room.endpoint("/fails", behave)
    for _ in range(EVENTS):
        await room.happen()
    async with room.sender():
        for hanging in (AT_ONCE, AT_ONCE + AT_ONCE_FAILING):
            await room.until(lambda hanging=hanging: endpoint.count == hanging)
            room.receiver.break_off()
        await room.settled()
    assert max(at_once[:AT_ONCE]) == AT_ONCE
    assert at_once[AT_ONCE : AT_ONCE + AT_ONCE_FAILING] == [1, 2]
    assert len(endpoint.accepted) == EVENTS - AT_ONCE - AT_ONCE_FAILING


@pytest.mark.parametrize("ends", ["never", "drips"])
async def test_what_does_not_end_in_time_is_cut_off_and_tried_again(room: Room, ends: str) -> None:
    room.timeout = 0.3
    id_, endpoint = await room.endpoint("/slow", always(200, ends=ends))
    await room.happen()
    async with room.sender():
        await room.settled()
    endpoint.behave, room.timeout = always(), PATIENT
    async with room.sender():
        await room.pass_time(timedelta(seconds=5))
    first, second = await room.attempts(id_)
    assert first["error"] == "No complete answer within 0.3 seconds."
    assert (second["status_code"], second["error"]) == (204, None)


@pytest.mark.parametrize("ends", ["reset", "closed"])
async def test_a_connection_that_breaks_is_a_failure_and_says_so(room: Room, ends: str) -> None:
    id_, _ = await room.endpoint("/breaks", always(200, ends=ends))
    nobody, _ = await room.endpoint("/", always(), url="http://127.0.0.1:1/")
    await room.happen()
    async with room.sender():
        await room.settled()
    [attempt] = await room.attempts(id_)
    assert "closed before an answer" in attempt["error"]
    [attempt] = await room.attempts(nobody)
    assert "port" in attempt["error"]  # 1 is another protocol's
    assert attempt["status_code"] is None


async def test_a_name_server_that_is_silent_holds_up_its_own_names_only(room: Room) -> None:
    answered = threading.Event()

    def ask(name: str) -> list[tuple[Any, ...]]:
        if name.startswith("silent"):
            answered.wait()
        return look_up("localhost")

    room.look_up, room.timeout = ask, PATIENT
    port = room.receiver.port
    for n in range(HANGING):
        await room.endpoint(f"/{n}", always(), url=f"http://silent-{n}.example.com:{port}/{n}")
    async with room.sender():
        await room.happen()
        room.wake()
        url = f"http://talks.example.com:{port}/healthy"
        _, healthy = await room.endpoint("/healthy", always(), url=url)
        try:
            for _ in range(EVENTS):
                await room.happen()
            room.wake()
            await room.until(lambda: len(healthy.accepted) == EVENTS)
            assert sum(one.count for one in room.receiver.endpoints.values()) == EVENTS
        finally:
            answered.set()
        await room.settled()
    silent = [one for path, one in room.receiver.endpoints.items() if path != "/healthy"]
    assert [len(one.accepted) for one in silent] == [EVENTS + 1] * HANGING


async def test_410_ends_it_for_what_else_is_pending_too(room: Room) -> None:
    id_, endpoint = await room.endpoint("/gone", always(500))
    await room.happen()
    await room.happen()
    async with room.sender():
        await room.settled()
        endpoint.behave = always(410)
        await room.pass_time(timedelta(seconds=5))
        count = endpoint.count
        await room.pass_time(timedelta(hours=1))
        await room.happen()
        await room.pass_time(timedelta(hours=1))
    health = await room.health(id_)
    assert (health["enabled"], health["disabled_reason"]) == (False, "gone")
    assert health["disabled_at"] == health["updated_at"]
    assert endpoint.count == count


async def test_an_endpoint_that_asks_for_a_pause_gets_it_for_all_its_deliveries(
    room: Room,
) -> None:
    id_, endpoint = await room.endpoint("/busy", always(429, headers={"Retry-After": "600"}))
    await room.happen()
    async with room.sender():
        await room.settled()
        assert (await room.health(id_))["held_until"] == room.clock.now + timedelta(minutes=10)
        endpoint.behave = always()
        await room.happen()
        await room.pass_time(timedelta(minutes=10, seconds=-1))
        assert endpoint.count == 1
        await room.pass_time(timedelta(seconds=1))
        assert len(endpoint.accepted) == 2
        endpoint.behave = always(504)
        await room.happen()
        await room.pass_time(timedelta())
    assert (await room.health(id_))["held_until"] == room.clock.now + PAUSE


async def test_five_days_of_failure_disable_an_endpoint_however_events_come(room: Room) -> None:
    id_, _ = await room.endpoint("/failing", always(500))
    async with room.sender():
        for _ in range(6):
            await room.happen()
            await room.pass_time(GIVE_UP_ENDPOINT / 5)
    health = await room.health(id_)
    assert (health["enabled"], health["disabled_reason"]) == (False, "failing")
    assert health["disabled_at"] - health["failing_since"] == GIVE_UP_ENDPOINT


async def test_two_senders_at_once_send_each_delivery_once(room: Room) -> None:
    endpoints = [(await room.endpoint(f"/{n}", always()))[1] for n in range(5)]
    for _ in range(EVENTS):
        await room.happen()
    async with room.sender(), room.sender():
        await room.settled()
    for endpoint in endpoints:
        assert len(endpoint.accepted) == EVENTS
        assert endpoint.count == EVENTS


async def test_what_a_sender_claimed_that_died_comes_again(room: Room) -> None:
    id_, endpoint = await room.endpoint("/again", always())
    await room.happen()
    room_for_all = Space(deliveries=9, failing_endpoints=9, pings=9)
    claimed = await claim(room.pool, Counter(), room_for_all, room.clock.now)
    assert [one.endpoint_id for one in claimed] == [id_]
    async with room.sender():
        await room.pass_time(CLAIM - timedelta(seconds=1))
        assert endpoint.count == 0
        await room.pass_time(timedelta(seconds=1))
    assert len(endpoint.accepted) == 1


async def test_connections_to_postgresql_that_break_lose_nothing(room: Room) -> None:
    endpoints = [(await room.endpoint(f"/{n}", always()))[1] for n in range(3)]
    async with room.sender():
        for n in range(EVENTS):
            await room.happen()
            room.wake()
            if n % 10 == 5:
                await room.sql.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = 'webhooks' AND datname = current_database()"
                )
        await room.settled()
        await room.pass_time(CLAIM)
    assert [len(one.accepted) for one in endpoints] == [EVENTS] * 3


async def test_one_account_hears_nothing_of_another(room: Room) -> None:
    other = uuid4()
    _, ours = await room.endpoint("/ours", always())
    _, theirs = await room.endpoint("/theirs", always(), account_id=other)
    await room.happen()
    [told] = await room.happen(account_id=other)
    async with room.sender():
        await room.settled()
    assert ours.count == 1
    assert list(theirs.accepted) == [str(told.event_id)]


async def test_what_another_sender_changed_of_an_endpoint_meanwhile_is_decided_on_anew(
    room: Room,
) -> None:
    id_, _ = await room.endpoint("/changed", always(500))
    await room.happen()
    held_until = room.clock.now + timedelta(hours=1)
    other = await connect(room.database.admin_dsn)
    async with room.sender():
        async with held_open(other):
            await other.execute("UPDATE webhooks.endpoint SET held_until = $1", held_until)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            waits += " AND datname = current_database()"
            await eventually(lambda: room.sql.fetchval(waits), bool)
        await room.settled()
    await other.close()
    health = await room.health(id_)
    assert (health["held_until"], health["failing_since"]) == (held_until, room.clock.now)
    assert [row["number"] for row in await room.attempts(id_)] == [1]
