"""An endpoint is removed at once, whatever it has gathered; what it leaves behind goes later."""

from collections.abc import AsyncIterator
from secrets import token_bytes
from uuid import uuid4

import pytest

from libs.contracts.webhooks_rpc import (
    EndpointRemoved,
    GetEndpoint,
    RemoveEndpoint,
    UnknownEndpoint,
)
from libs.eventlog.connection import connect
from services.webhooks.answering import Answering
from services.webhooks.endpoints import get_endpoint, remove_endpoint
from services.webhooks.retention import BATCH, trim
from tests.support.receiver import always
from tests.support.stack import Database
from tests.support.waiting import held_open
from tests.support.webhook_room import Room, webhook_room


@pytest.fixture
async def room(fresh_database: Database) -> AsyncIterator[Room]:
    async with webhook_room(fresh_database) as room:
        yield room


def answering_in(room: Room) -> Answering:
    return Answering(
        pool=room.pool,
        now=lambda: room.clock.now,
        new_id=uuid4,
        new_secret=lambda: token_bytes(32),
        wake=room.wake,
        allow_loopback=True,
    )


async def test_removing_waits_for_none_of_what_was_delivered(room: Room) -> None:
    id_, _ = await room.endpoint("/removed", always())
    await room.happen()
    ours = RemoveEndpoint(account_id=room.account_id, endpoint_id=id_)
    answering, writer = answering_in(room), await connect(room.database.admin_dsn)
    async with held_open(writer):
        await writer.execute("SELECT FROM webhooks.delivery FOR UPDATE")  # its outcome is written
        foreign = await remove_endpoint(
            answering, RemoveEndpoint(account_id=uuid4(), endpoint_id=id_)
        )
        removed = await remove_endpoint(answering, ours)
    await writer.close()
    again = await remove_endpoint(answering, ours)
    shown = await get_endpoint(answering, GetEndpoint(account_id=room.account_id, endpoint_id=id_))

    assert isinstance(removed, EndpointRemoved)
    assert [type(answer) for answer in (foreign, again, shown)] == [UnknownEndpoint] * 3


async def test_nothing_is_sent_to_what_was_removed_not_even_a_ping(room: Room) -> None:
    id_, endpoint = await room.endpoint("/removed", always())
    await room.happen()
    await room.ping(id_, b"{}")
    await remove_endpoint(
        answering_in(room), RemoveEndpoint(account_id=room.account_id, endpoint_id=id_)
    )
    async with room.sender():
        _, healthy = await room.endpoint("/stays", always())
        await room.happen()
        await room.until(lambda: len(healthy.accepted) == 1)
    assert endpoint.count == 0


async def test_what_was_removed_leaves_nothing_behind(room: Room) -> None:
    id_, _ = await room.endpoint("/removed", always())
    stays, _ = await room.endpoint("/stays", always())
    await room.happen()
    await room.sql.execute(
        "INSERT INTO webhooks.delivery (id, endpoint_id, event_id, event_type, status, step,"
        " attempts, created_at) SELECT gen_random_uuid(), $1, gen_random_uuid(), 'job.queued',"
        " 'failed', 10, 10, $2 FROM generate_series(1, $3::int)",
        id_,
        room.clock.now,
        2 * BATCH + 1,
    )
    await remove_endpoint(
        answering_in(room), RemoveEndpoint(account_id=room.account_id, endpoint_id=id_)
    )
    secret = await room.sql.fetchval("SELECT secret FROM webhooks.endpoint WHERE id = $1", id_)

    await trim(room.pool, lambda: room.clock.now)

    assert secret == b""
    assert await room.deliveries(id_) == []
    assert len(await room.deliveries(stays)) == 1
    left = await room.sql.fetch("SELECT id FROM webhooks.endpoint")
    assert [row["id"] for row in left] == [stays]
