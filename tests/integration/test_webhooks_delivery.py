"""Delivery by Standard Webhooks 1.0.0, to a receiver that checks it with the reference library."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from libs.contracts.scheduler import JobCancelled, JobLeased, JobStarted
from tests.support.receiver import always
from tests.support.stack import Database
from tests.support.webhook_room import Room, webhook_room

STARTED = JobStarted(
    epoch=1, trainer_id="trainer-0", device="cpu", steps_total=9, resumed_from_step=0
)
LEASED = JobLeased(epoch=1, trainer_id="trainer-0")
CANCELLED = JobCancelled(tokens_processed=0, charge_cents=0)


@pytest.fixture
async def room(database: Database) -> AsyncIterator[Room]:
    async with webhook_room(database) as room:
        yield room


async def test_an_event_arrives_signed_with_the_job_as_it_was_then(room: Room) -> None:
    _, endpoint = await room.endpoint("/hook", always())
    queued, running, cancelled = await room.happen(LEASED, STARTED, CANCELLED)
    async with room.sender():
        await room.settled()
    assert endpoint.forged == 0
    by_id = {request.id: request for request in endpoint.requests}
    assert set(by_id) == {str(e.event_id) for e in (queued, running, cancelled)}
    for envelope, type_, status in (
        (queued, "job.queued", "queued"),
        (running, "job.running", "running"),
        (cancelled, "job.cancelled", "cancelled"),
    ):
        request = by_id[str(envelope.event_id)]
        payload = msgspec.json.decode(request.body)
        assert payload["type"] == type_
        assert payload["data"]["status"] == status
        assert payload["data"]["id"] == str(envelope.job_id)
        assert payload["timestamp"].endswith("Z")
        assert request.headers["content-type"] == "application/json"
        assert request.headers["webhook-timestamp"] == str(int(room.clock.now.timestamp()))
