"""Webhooks over HTTP: made, shown once with their secret, changed and deleted."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deploy.local.s3 import S3Settings
from services.webhooks.endpoints import MAX_ENDPOINTS
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.integration.webhook_client import (
    FIELDS,
    PATH,
    URL,
    create,
    created,
    error_of,
    get,
    key_of,
    patch,
    row_of,
)
from tests.support.stack import Database, Nats

DAY = timedelta(hours=24)
NOBODYS = "5b6f3c4e-0b2a-4c8e-9a51-2f6d0f6f7a10"  # an id that nothing has


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


@pytest.fixture
async def mine(gateway: Gateway) -> dict[str, str]:
    """The headers of a new account."""
    return bearer((await gateway.account(cents=0))[1])


@pytest.fixture
async def other(gateway: Gateway) -> dict[str, str]:
    return bearer((await gateway.account(cents=0))[1])


async def test_a_webhook_is_made_with_a_secret_that_is_shown_once(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    made = await created(
        gateway, mine, event_types=["job.failed", "job.completed", "job.failed"], description="CI"
    )

    assert set(made) == FIELDS | {"secret"}
    assert (made["url"], made["description"], made["enabled"]) == (URL, "CI", True)
    assert made["event_types"] == ["job.failed", "job.completed"]
    assert made["disabled_reason"] is made["disabled_at"] is made["failing_since"] is None
    secret = key_of(made.pop("secret"))
    assert 24 <= len(secret) <= 64
    assert (await row_of(gateway, made["id"]))["secret"] == secret
    assert await get(gateway, mine, f"{PATH}/{made['id']}") == made
    assert await get(gateway, mine, PATH) == {
        "data": [made],
        "next_cursor": None,
        "has_more": False,
    }


async def test_a_webhook_may_be_told_of_everything_or_begin_switched_off(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    of_all = await created(gateway, mine)
    off = await created(gateway, mine, enabled=False)

    assert of_all["event_types"] is of_all["description"] is None
    assert (off["enabled"], off["disabled_reason"]) == (False, None)
    assert off["disabled_at"] == off["created_at"]
    assert of_all["secret"] != off["secret"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "url"),
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "https://exa mple.com"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https://žluťoučký.example"}, "url"),
        ({"url": "https://e.example/" + "a" * 2048}, "url"),
        ({"url": "http://hooks.example.com/"}, "url: "),
        ({"url": "https://127.0.0.1/"}, "url: "),
        ({"url": "https://10.0.0.8:8443/hook"}, "url: "),
        ({"url": "https://[::1]/"}, "url: "),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url: "),
        ({"url": "https://me:secret@example.com/"}, "url: "),
        ({"url": URL, "event_types": []}, "event_types"),
        ({"url": URL, "event_types": ["job.paused"]}, "event_types"),
        ({"url": URL, "event_types": ["ping"]}, "event_types"),
        ({"url": URL, "event_types": "job.failed"}, "event_types"),
        ({"url": URL, "description": "a" * 501}, "description"),
        ({"url": URL, "description": "a\x00b"}, "description"),
        ({"url": URL, "enabled": None}, "enabled"),
        ({"url": URL, "secret": "whsec_mine"}, "secret"),
    ],
)
async def test_what_makes_no_webhook_is_refused_by_name(
    gateway: Gateway, mine: dict[str, str], body: dict[str, Any], named: str
) -> None:
    answer = await gateway.client.post(PATH, headers=mine, json=body)

    assert named in error_of(answer, 422, "validation_failed")
    assert (await get(gateway, mine, PATH))["data"] == []


@pytest.mark.parametrize("url", ["http://hooks.example.com/", "https://192.168.1.1/"])
async def test_a_webhook_can_not_be_led_elsewhere_than_it_could_be_made(
    gateway: Gateway, mine: dict[str, str], url: str
) -> None:
    made = await created(gateway, mine)

    refused = await patch(gateway, mine, made["id"], url=url)

    assert error_of(refused, 422, "validation_failed").startswith("url: ")
    assert (await get(gateway, mine, f"{PATH}/{made['id']}"))["url"] == URL


async def test_an_account_has_so_many_webhooks_and_no_more(
    gateway: Gateway, mine: dict[str, str], other: dict[str, str]
) -> None:
    answers = await asyncio.gather(*(create(gateway, mine) for _ in range(MAX_ENDPOINTS + 5)))
    refused = [answer for answer in answers if answer.status_code != 201]

    assert len(refused) == 5
    assert str(MAX_ENDPOINTS) in error_of(refused[0], 409, "webhook_limit")
    assert (await create(gateway, other)).status_code == 201
    gone = decoded(next(answer for answer in answers if answer.status_code == 201))
    await gateway.client.delete(f"{PATH}/{gone['id']}", headers=mine)
    assert (await create(gateway, mine)).status_code == 201


async def test_a_list_shows_a_page_at_a_time_the_newest_first(
    gateway: Gateway, mine: dict[str, str], other: dict[str, str]
) -> None:
    ids = [(await created(gateway, mine))["id"] for _ in range(5)][::-1]
    await created(gateway, other)

    first = await get(gateway, mine, PATH, limit=3)
    rest = await get(gateway, mine, PATH, limit=3, cursor=first["next_cursor"])

    assert [one["id"] for one in first["data"] + rest["data"]] == ids
    assert (first["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)
    assert all("secret" not in one for one in first["data"])


async def test_a_change_leaves_what_it_does_not_name(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    made = await created(gateway, mine, event_types=["job.failed"], description="CI")
    del made["secret"]

    same = decoded(await patch(gateway, mine, made["id"]))
    moved = decoded(await patch(gateway, mine, made["id"], url="https://new.example/"))
    cleared = decoded(await patch(gateway, mine, made["id"], event_types=None, description=None))

    def told(one: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in one.items() if name != "updated_at"}

    assert told(same) == told(made)
    assert told(moved) == told(made) | {"url": "https://new.example/"}
    assert told(cleared) == told(moved) | {"event_types": None, "description": None}
    assert datetime.fromisoformat(cleared["updated_at"]) > datetime.fromisoformat(
        made["updated_at"]
    )
    assert await get(gateway, mine, f"{PATH}/{made['id']}") == cleared


async def test_a_deleted_webhook_is_gone_with_its_deliveries(
    gateway: Gateway, mine: dict[str, str]
) -> None:
    made = await created(gateway, mine)
    await gateway.client.post(f"{PATH}/{made['id']}/test", headers=mine)

    deleted = await gateway.client.delete(f"{PATH}/{made['id']}", headers=mine)
    again = await gateway.client.delete(f"{PATH}/{made['id']}", headers=mine)

    assert decoded(deleted) == {"id": made["id"], "deleted": True}
    error_of(again, 404, "not_found")
    error_of(
        await gateway.client.get(f"{PATH}/{made['id']}/deliveries", headers=mine), 404, "not_found"
    )
    assert (await get(gateway, mine, PATH))["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"enabled": True}),
        ("DELETE", "", None),
        ("POST", "/rotate-secret", None),
        ("POST", "/test", None),
        ("GET", "/deliveries", None),
        ("POST", "/recover", {"since": "2026-01-01T00:00:00Z"}),
        ("POST", f"/deliveries/{NOBODYS}/redeliver", None),
    ],
)
async def test_what_is_unknown_or_anothers_is_not_found(
    gateway: Gateway,
    mine: dict[str, str],
    other: dict[str, str],
    method: str,
    path: str,
    body: Any,
) -> None:
    theirs = (await created(gateway, other))["id"]
    before = await row_of(gateway, theirs)

    for webhook_id in (theirs, str(uuid4()), "nothing", "%00"):
        answer = await gateway.client.request(
            method, f"{PATH}/{webhook_id}{path}", headers=mine, json=body
        )
        error_of(answer, 404, "not_found")
    assert await row_of(gateway, theirs) == before


async def test_stripes_own_path_is_no_webhook(gateway: Gateway, mine: dict[str, str]) -> None:
    """It is open to all, and takes Stripe's events; nothing else is found there."""
    event = await gateway.client.post(f"{PATH}/stripe", content=b"{}")

    error_of(event, 409, "card_payments_not_configured")
    for method in ("GET", "PATCH", "DELETE"):
        for headers in ({}, mine):
            answer = await gateway.client.request(method, f"{PATH}/stripe", headers=headers)
            error_of(answer, 405, "method_not_allowed")
