"""Delivery by Standard Webhooks 1.0.0, to a receiver that checks it with the reference library."""

import gzip
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import msgspec
import pytest

from libs.contracts.scheduler import JobCancelled, JobLeased, JobStarted
from libs.eventlog.record import AlreadyHandled
from services.webhooks.handlers import Desk, record
from services.webhooks.model import SCHEDULE, response_text
from services.webhooks.retention import KEPT, trim
from services.webhooks.sender import NOT_KEPT
from tests.support.receiver import Answer, Request, always
from tests.support.stack import Database
from tests.support.webhook_room import Room, append_job, webhook_room

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


async def test_each_enabled_endpoint_of_the_account_gets_the_types_it_wants(room: Room) -> None:
    _, everything = await room.endpoint("/all", always())
    _, ends = await room.endpoint("/ends", always(), event_types=["job.failed", "job.cancelled"])
    _, none = await room.endpoint("/none", always(), event_types=["job.failed"])
    _, disabled = await room.endpoint("/off", always(), enabled=False)
    _, foreign = await room.endpoint("/foreign", always(), account_id=uuid4())
    await room.happen(LEASED, STARTED, CANCELLED)
    async with room.sender():
        await room.settled()
    counts = [one.count for one in (everything, ends, none, disabled, foreign)]
    assert counts == [3, 1, 0, 0, 0]


async def test_an_event_that_comes_twice_is_recorded_once(room: Room) -> None:
    id_, _ = await room.endpoint("/twice", always())
    _, [(envelope, event)] = await append_job(room.sql, room.account_id, room.clock.now)
    told: list[bool] = []
    desk = Desk(
        pool=room.pool,
        now=lambda: room.clock.now,
        new_id=uuid4,
        recorded=lambda: told.append(True),
    )
    await record(desk, envelope, event)
    with pytest.raises(AlreadyHandled):
        await record(desk, envelope, event)
    assert len(await room.deliveries(id_)) == 1
    assert told == [True]


async def test_during_a_rotation_both_secrets_sign_and_afterwards_the_new_one_alone(
    room: Room,
) -> None:
    old = b"o" * 32
    until = room.clock.now + timedelta(hours=24)
    _, endpoint = await room.endpoint("/hook", always(), previous_secret=old, previous_until=until)
    new, endpoint.secret = endpoint.secret, old  # a receiver that has not changed it yet
    async with room.sender():
        await room.happen()
        await room.pass_time(timedelta(seconds=1))
        assert (len(endpoint.accepted), endpoint.forged) == (1, 0)
        await room.happen()
        await room.pass_time(timedelta(hours=24))
        assert (len(endpoint.accepted), endpoint.forged) == (1, 1)
        endpoint.secret = new
        await room.pass_time(timedelta(seconds=5))
    assert len(endpoint.accepted) == 2
    signatures = [one.headers["webhook-signature"].count("v1,") for one in endpoint.requests]
    assert signatures == [2, 1, 1]


async def test_a_ping_is_sent_once_also_to_an_endpoint_that_is_disabled(room: Room) -> None:
    id_, endpoint = await room.endpoint("/ping", always(500), enabled=False)
    payload = b'{"type":"ping","timestamp":"2026-03-19T12:00:00Z","data":{}}'
    await room.ping(id_, payload)
    async with room.sender():
        await room.settled()
        await room.pass_time(timedelta(days=4))
    assert [request.body for request in endpoint.requests] == [payload]
    [delivery] = await room.deliveries(id_)
    assert (delivery["status"], delivery["attempts"]) == ("failed", 1)
    assert (await room.health(id_))["failing_since"] is None


async def test_what_is_pending_waits_while_its_endpoint_is_disabled(room: Room) -> None:
    id_, endpoint = await room.endpoint("/waits", always())
    await room.happen()
    await room.sql.execute("UPDATE webhooks.endpoint SET enabled = false WHERE id = $1", id_)
    async with room.sender():
        await room.pass_time(timedelta(hours=1))
        assert endpoint.count == 0
        await room.sql.execute("UPDATE webhooks.endpoint SET enabled = true WHERE id = $1", id_)
        await room.pass_time(timedelta(hours=1))
    assert len(endpoint.accepted) == 1


async def test_an_endpoint_removed_during_an_attempt_takes_all_with_it(room: Room) -> None:
    async with room.sender():
        id_, endpoint = await room.endpoint("/removed", always(ends="never"))
        await room.happen()
        room.wake()
        await room.until(lambda: endpoint.in_flight == 1)
        await room.sql.execute("DELETE FROM webhooks.endpoint WHERE id = $1", id_)
        _, healthy = await room.endpoint("/stays", always())
        await room.happen()
        await room.pass_time(timedelta(seconds=1))
    assert len(healthy.accepted) == 1
    assert await room.deliveries(id_) == []


async def test_what_is_due_again_after_a_redelivery_goes_through_the_schedule_anew(
    room: Room,
) -> None:
    id_, endpoint = await room.endpoint("/again", always(500))
    await room.happen()
    async with room.sender():
        await room.settled()
        for number, wait in enumerate(SCHEDULE[1:], start=1):
            await room.pass_time(wait - timedelta(seconds=1))
            assert endpoint.count == number
            await room.pass_time(timedelta(seconds=1))
        assert (endpoint.count, (await room.deliveries(id_))[0]["status"]) == (10, "failed")
        endpoint.behave = always()
        await room.sql.execute(
            "UPDATE webhooks.delivery SET status = 'pending', step = 0, next_at = $2"
            " WHERE endpoint_id = $1",
            id_,
            room.clock.now,
        )
        await room.pass_time(timedelta())
    [delivery] = await room.deliveries(id_)
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 11)
    assert {request.id for request in endpoint.requests} == {str(delivery["event_id"])}
    assert [row["number"] for row in await room.attempts(id_)] == list(range(1, 12))


async def test_the_first_kilobyte_of_an_answer_is_kept_and_no_more_is_read_than_64(
    room: Room,
) -> None:
    id_, _ = await room.endpoint("/says", always(200, body=b"ok \0\xff" + b"x" * 2_000))
    flooding, _ = await room.endpoint("/floods", always(200, ends="floods"))
    await room.happen()
    async with room.sender():
        await room.settled()
    [attempt] = await room.attempts(id_)
    assert attempt["response"] == "ok \ufffd" + "x" * 1_019
    assert (attempt["status_code"], attempt["error"], attempt["number"]) == (200, None, 1)
    [delivery] = await room.deliveries(flooding)
    assert delivery["status"] == "delivered"


async def test_an_answer_is_kept_as_it_came_and_never_unpacked(room: Room) -> None:
    packed = gzip.compress(b"x" * 10_000_000)
    answer = always(200, body=packed, headers={"Content-Encoding": "gzip"})
    id_, endpoint = await room.endpoint("/bomb", answer)
    await room.happen()
    async with room.sender():
        await room.settled()
    [attempt] = await room.attempts(id_)
    assert attempt["response"] == response_text(packed)
    assert endpoint.requests[0].headers["accept-encoding"] == "identity"


async def test_what_is_not_kept_any_more_is_not_held_against_the_endpoint(room: Room) -> None:
    id_, endpoint = await room.endpoint("/late", always())
    await room.happen()
    await room.sql.execute(
        "DELETE FROM webhooks.notification WHERE account_id = $1", room.account_id
    )
    async with room.sender():
        await room.settled()
    [delivery] = await room.deliveries(id_)
    [attempt] = await room.attempts(id_)
    assert (delivery["status"], attempt["error"]) == ("failed", NOT_KEPT)
    assert (await room.health(id_))["failing_since"] is None
    assert endpoint.count == 0


async def test_what_is_a_month_old_is_trimmed_in_batches(room: Room) -> None:
    id_, _ = await room.endpoint("/old", always())
    await room.happen()
    async with room.sender():
        await room.settled()
    count = "SELECT count(*) FROM webhooks.notification WHERE account_id = $1"
    for age, left in ((KEPT, 1), (timedelta(microseconds=1), 0)):
        room.clock.now += age
        await trim(room.pool, lambda: room.clock.now)
        assert len(await room.deliveries(id_)) == left
        assert await room.sql.fetchval(count, room.account_id) == left
    assert await room.attempts(id_) == []


async def test_an_endpoint_that_changes_its_mind_is_told_in_the_end(room: Room) -> None:
    def moody(request: Request) -> Answer:
        return (
            Answer(status=503, headers={"Retry-After": "7"}),
            Answer(ends="reset"),
            Answer(status=302, headers={"Location": "/elsewhere"}),
            Answer(status=200, body=b"{}"),
        )[request.number - 1]

    id_, endpoint = await room.endpoint("/moody", moody)
    _, elsewhere = await room.endpoint("/elsewhere", always(), account_id=uuid4())
    await room.happen()
    async with room.sender():
        await room.settled()
        for wait in (7, 300, 1_800):
            await room.pass_time(timedelta(seconds=wait))
    assert [row["status_code"] for row in await room.attempts(id_)] == [503, None, 302, 200]
    assert len(endpoint.accepted) == 1
    assert elsewhere.count == 0
    health = await room.health(id_)
    assert (health["failing_since"], health["enabled"]) == (None, True)
