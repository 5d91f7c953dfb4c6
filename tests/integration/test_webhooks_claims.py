"""What is claimed first, and what else a claim touches, when more is due than there is room for."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from services.webhooks.claims import AT_ONCE, Room, claim
from tests.support.receiver import always
from tests.support.stack import Database
from tests.support.webhook_room import Room as WebhookRoom
from tests.support.webhook_room import webhook_room

LONG_AGO = timedelta(hours=1)


@pytest.fixture
async def room(fresh_database: Database) -> AsyncIterator[WebhookRoom]:
    async with webhook_room(fresh_database) as room:
        yield room


async def due(room: WebhookRoom, since: timedelta, count: int) -> UUID:
    """An endpoint of another account with ``count`` deliveries that wait for it ``since`` then."""
    id_, _ = await room.endpoint(f"/{uuid4()}", always(), account_id=uuid4())
    await room.sql.execute(
        "INSERT INTO webhooks.delivery (id, endpoint_id, event_id, event_type, status, step,"
        " attempts, next_at, created_at) SELECT gen_random_uuid(), $1, gen_random_uuid(),"
        " 'job.queued', 'pending', 0, 0, $2, $2 FROM generate_series(1, $3::int)",
        id_,
        room.clock.now - since,
        count,
    )
    return id_


async def claimed(room: WebhookRoom, busy: dict[UUID, int], deliveries: int) -> list[UUID]:
    left = Room(deliveries=deliveries, failing_endpoints=100, pings=0)
    found = await claim(room.pool, busy, left, room.clock.now)
    return [one.endpoint_id for one in found]


async def test_a_backlog_is_not_before_what_came_later_for_who_has_nothing_in_flight(
    room: WebhookRoom,
) -> None:
    slow = [await due(room, LONG_AGO, 50) for _ in range(3)]
    quick = await due(room, timedelta(), 1)
    busy = dict.fromkeys(slow, AT_ONCE - 2)

    assert await claimed(room, busy, 1) == [quick]
    assert set(await claimed(room, busy, 3)) == set(slow)


async def test_the_room_is_shared_by_who_has_something_due(room: WebhookRoom) -> None:
    endpoints = [await due(room, LONG_AGO * (n + 1), 50) for n in range(4)]

    found = await claimed(room, {}, 8)

    assert {id_: found.count(id_) for id_ in endpoints} == dict.fromkeys(endpoints, 2)


async def test_a_claim_locks_what_there_is_room_for_however_many_wait(room: WebhookRoom) -> None:
    for _ in range(20):
        await due(room, LONG_AGO, AT_ONCE)

    await claimed(room, {}, 1)

    locked = "SELECT count(*) FROM webhooks.delivery WHERE xmax::text <> '0'"
    assert await room.sql.fetchval(locked) <= AT_ONCE
