"""What was sent to a webhook, as its owner sees it; and sending it again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from deploy.local.s3 import S3Settings
from tests.integration.gateway_app import Gateway, decoded, running_gateway
from tests.integration.webhook_story import (
    DELIVERY_FIELDS,
    ENDED,
    HOUR,
    Mine,
    accepted,
    account_with_webhook,
    due_now,
    happened,
    listed,
    post,
    row_of,
    sent,
)
from tests.support.stack import Database, Nats


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.fixture
async def mine(gateway: Gateway) -> Mine:
    return await account_with_webhook(gateway)


async def test_deliveries_are_listed_with_their_last_attempts_and_by_status(
    gateway: Gateway, mine: Mine
) -> None:
    failed = await sent(gateway, mine, "failed", responses=[f"no {n}" for n in range(1, 13)])
    waiting = await sent(gateway, mine, "pending", at=ENDED + HOUR, responses=["soon"])
    done = await sent(gateway, mine, "delivered", at=ENDED + 2 * HOUR)

    page = await listed(gateway, mine)

    assert [one["id"] for one in page["data"]] == [done, waiting, failed]
    assert all(set(one) == DELIVERY_FIELDS for one in page["data"])
    oldest = page["data"][-1]
    assert oldest["attempt_count"] == 12
    assert [one["number"] for one in oldest["attempts"]] == list(range(12, 2, -1))
    assert oldest["attempts"][0] == {
        "number": 12,
        "started_at": "2026-11-01T12:12:00Z",
        "latency_ms": 12,
        "status_code": 500,
        "error": None,
        "response": "no 12",
    }
    assert page["data"][1]["next_attempt_at"] == "2026-11-01T23:00:00Z"
    assert page["data"][0]["next_attempt_at"] is None
    assert page["data"][0]["delivered_at"] == "2026-11-01T14:00:00Z"
    for status, expected in (("failed", failed), ("pending", waiting), ("delivered", done)):
        assert [one["id"] for one in (await listed(gateway, mine, status=status))["data"]] == [
            expected
        ]
    unknown = await gateway.client.get(
        f"{mine.path}/deliveries", headers=mine.headers, params={"status": "lost"}
    )
    assert unknown.status_code == 422
    assert decoded(unknown)["error"]["message"].startswith("status")


async def test_pages_of_long_answers_are_shorter_and_lose_nothing(
    gateway: Gateway, mine: Mine
) -> None:
    """A hundred deliveries whose receiver answers in control characters, six bytes each."""
    awkward = ["\x01" * 1024] * 10
    stored = [
        await sent(gateway, mine, "failed", at=ENDED + n * HOUR, responses=awkward)
        for n in range(30)
    ]

    shown: list[str] = []
    page = await listed(gateway, mine, limit=100)
    assert 0 < len(page["data"]) < len(stored)
    while True:
        shown += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        page = await listed(gateway, mine, limit=100, cursor=page["next_cursor"])

    assert shown == stored[::-1]


async def test_a_delivery_is_sent_again_from_the_start_of_its_schedule(
    gateway: Gateway, mine: Mine
) -> None:
    ids = {
        status: await sent(gateway, mine, status, responses=["a", "b"])
        for status in ("pending", "delivered", "failed")
    }
    wakes = len(gateway.wakes)

    for status, delivery_id in ids.items():
        before = await row_of(gateway, delivery_id)
        again = await accepted(gateway, mine, f"/deliveries/{delivery_id}/redeliver")
        after = await row_of(gateway, delivery_id)

        assert due_now(gateway, after), status
        assert after["event_id"] == before["event_id"]
        assert after["attempts"] == 2
        assert after["delivered_at"] is None
        assert (again["id"], again["status"], again["attempt_count"]) == (delivery_id, "pending", 2)
        assert len(again["attempts"]) == 2
    assert len(gateway.wakes) >= wakes + 3


async def test_a_repetition_under_one_key_sends_nothing_again(gateway: Gateway, mine: Mine) -> None:
    delivery_id = await sent(gateway, mine, "failed")
    path = f"/deliveries/{delivery_id}/redeliver"
    first = await accepted(gateway, mine, path, "again")
    await gateway.admin.execute(
        "UPDATE webhooks.delivery SET status = 'delivered', next_at = NULL WHERE id = $1",
        UUID(delivery_id),
    )

    repeated = await accepted(gateway, mine, path, "again")
    elsewhere = await post(gateway, mine, "/test", "again")

    assert repeated == first
    assert (await row_of(gateway, delivery_id))["status"] == "delivered"
    assert elsewhere.status_code == 409
    assert decoded(elsewhere)["error"]["code"] == "idempotency_conflict"


async def test_another_webhooks_delivery_is_unknown_to_this_one(
    gateway: Gateway, mine: Mine
) -> None:
    stranger = await account_with_webhook(gateway)
    theirs = await sent(gateway, stranger, "failed")
    before = await row_of(gateway, theirs)

    for delivery_id in (theirs, str(uuid4()), "nothing"):
        answer = await post(gateway, mine, f"/deliveries/{delivery_id}/redeliver")
        assert answer.status_code == 404, answer.text
    through_theirs = await gateway.client.post(
        f"{stranger.path}/deliveries/{theirs}/redeliver", headers=mine.headers
    )

    assert through_theirs.status_code == 404
    assert await row_of(gateway, theirs) == before


async def test_what_was_given_up_or_missed_since_then_is_sent(gateway: Gateway, mine: Mine) -> None:
    old = await sent(gateway, mine, "failed", at=ENDED - HOUR)
    done = await sent(gateway, mine, "delivered", at=ENDED)
    waiting = await sent(gateway, mine, "pending", at=ENDED)
    given_up = await sent(gateway, mine, "failed", at=ENDED)
    await happened(gateway, mine, at=ENDED - HOUR)
    await happened(gateway, mine, payload=None)  # from before there was delivery
    await happened(gateway, await account_with_webhook(gateway))
    missed = await happened(gateway, mine, at=ENDED + HOUR, kind="job.failed")
    untouched = [await row_of(gateway, each) for each in (old, done, waiting)]
    wakes = len(gateway.wakes)

    answer = await accepted(gateway, mine, "/recover", body={"since": "2026-11-01T13:00:00+01:00"})

    assert answer == {"deliveries": 2, "has_more": False}
    assert len(gateway.wakes) > wakes
    assert due_now(gateway, await row_of(gateway, given_up))
    (new,) = await gateway.admin.fetch(
        "SELECT * FROM webhooks.delivery WHERE endpoint_id = $1 AND event_id = $2",
        *(UUID(mine.webhook_id), missed),
    )
    assert due_now(gateway, new)
    assert (new["event_type"], new["attempts"], new["payload"]) == ("job.failed", 0, None)
    assert new["job_id"] is not None
    assert [await row_of(gateway, each) for each in (old, done, waiting)] == untouched
    nothing_more = await accepted(gateway, mine, "/recover", body={"since": "2026-11-01T12:00:00Z"})
    assert nothing_more == {"deliveries": 0, "has_more": False}


async def test_a_webhook_recovers_only_what_it_is_told_of(gateway: Gateway) -> None:
    mine = await account_with_webhook(gateway, event_types=["job.failed", "job.cancelled"])
    for kind in ("job.queued", "job.running", "job.completed", "job.failed", "job.cancelled"):
        await happened(gateway, mine, kind=kind)

    answer = await accepted(gateway, mine, "/recover", body={"since": "2026-11-01T12:00:00Z"})

    assert answer["deliveries"] == 2
    told = {one["event_type"] for one in (await listed(gateway, mine))["data"]}
    assert told == {"job.failed", "job.cancelled"}


async def test_recovering_at_once_sends_each_event_once(gateway: Gateway, mine: Mine) -> None:
    for _ in range(20):
        await happened(gateway, mine)

    answers = await asyncio.gather(
        *(
            accepted(gateway, mine, "/recover", body={"since": "2026-11-01T12:00:00Z"})
            for _ in range(6)
        )
    )
    keyed = await asyncio.gather(
        *(
            accepted(gateway, mine, "/recover", "r", {"since": "2026-10-01T12:00:00Z"})
            for _ in range(3)
        )
    )

    assert sum(answer["deliveries"] for answer in answers) == 20
    assert [answer["deliveries"] for answer in keyed] == [0, 0, 0]
    assert len((await listed(gateway, mine, limit=100))["data"]) == 20


async def test_more_than_is_written_at_once_is_recovered_by_asking_again(
    gateway: Gateway, mine: Mine
) -> None:
    await gateway.admin.execute(
        "INSERT INTO webhooks.notification SELECT gen_random_uuid(), $1, $2, 'job.queued', $3, '{}'"
        " FROM generate_series(1, 12000)",
        *(uuid4(), mine.account_id, ENDED),
    )

    first = await accepted(gateway, mine, "/recover", body={"since": "2026-11-01T12:00:00Z"})
    second = await accepted(gateway, mine, "/recover", body={"since": "2026-11-01T12:00:00Z"})

    assert first == {"deliveries": 10_000, "has_more": True}
    assert second == {"deliveries": 2_000, "has_more": False}


@pytest.mark.parametrize(
    ("since", "status"),
    [
        ("2026-11-01T12:00:00", 422),
        ("yesterday", 422),
        (1_700_000_000, 422),
        (None, 422),
        ("0001-01-01T00:00:00+14:00", 202),
        ("9999-12-31T23:59:59-12:00", 202),
    ],
)
async def test_a_time_is_taken_with_an_offset_however_far_it_is(
    gateway: Gateway, mine: Mine, since: Any, status: int
) -> None:
    answer = await post(gateway, mine, "/recover", body={"since": since})

    assert answer.status_code == status, answer.text
    if status == 422:
        assert decoded(answer)["error"]["message"].startswith("since")
