"""Lists stay whole while they grow: a walk by cursor meets each row once, and misses none.

Between any two pages rows are added, in front of the cursor and behind it, and others change; the
next page is asked for while that happens.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from deploy.local.s3 import S3Settings
from libs.contracts.base import Surface
from libs.contracts.scheduler import Checkpoint, JobCheckpointed
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.integration.growing import (
    BEGAN,
    Jobs,
    add_datasets,
    add_deliveries,
    add_keys,
    add_models,
    add_webhooks,
    head_after,
    jobs_of,
)
from tests.support.jobs import first_append, next_append, submission
from tests.support.stack import Database, Nats

JOBS = 10_000
ADDED = 1_000
OLD, NEW = 60, 30  # of the other lists

Grow = Callable[[int], Awaitable[None]]
"""Add so many rows, and change some."""


@pytest.fixture(scope="module")
async def gateway(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models) as running:
        yield running


async def no_growth(_: int) -> None:
    pass


@pytest.fixture(scope="module")
async def many(gateway: Gateway) -> Jobs:
    return await jobs_of(gateway, JOBS)


async def walk(
    gateway: Gateway,
    path: str,
    headers: dict[str, str],
    limit: int,
    grow: Grow,
    *,
    added: int = 0,
    pages: int = 1,
) -> list[dict[str, Any]]:
    """Every row that the pages show. Over the first ``pages`` of them ``added`` rows are added,
    while each next page is asked for."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    share = -(-added // pages)
    while True:
        asked = gateway.client.get(
            path, headers=headers, params={"limit": limit} | ({"cursor": cursor} if cursor else {})
        )
        now = min(share, added)
        added -= now
        answer, _ = await asyncio.gather(asked, grow(now))
        assert answer.status_code == 200, answer.text
        page = decoded(answer)
        rows += page["data"]
        cursor = page["next_cursor"]
        assert page["has_more"] is (cursor is not None)
        assert len(page["data"]) == limit or cursor is None
        if cursor is None:
            assert added == 0, "the walk ended before everything was added"
            return rows


def check(rows: Sequence[dict[str, Any]], existing: set[str], id_name: str) -> None:
    """None twice, none lost of those that existed at the start, newest first."""
    shown = [row[id_name] for row in rows]
    assert len(set(shown)) == len(shown)
    assert existing <= set(shown)
    places = [(datetime.fromisoformat(row["created_at"]), UUID(row[id_name])) for row in rows]
    assert places == sorted(places, reverse=True)


@pytest.mark.parametrize("limit", [7, 100])
async def test_jobs_are_walked_while_others_are_submitted(
    gateway: Gateway, many: Jobs, limit: int
) -> None:
    existing = many.ids["jobs"] | many.ids["runs"]
    changed = set(many.changed)

    rows = await walk(
        gateway,
        "/v1/jobs",
        many.headers,
        limit,
        lambda count: many.grow("jobs", count),
        added=ADDED,
        pages=JOBS // limit,
    )

    check(rows, existing, "id")
    assert all(row["status"] == "failed" for row in rows if row["id"] in changed)


@pytest.mark.parametrize("limit", [7, 100])
async def test_runs_are_walked_while_others_are_submitted(
    gateway: Gateway, many: Jobs, limit: int
) -> None:
    existing, foreign = set(many.ids["runs"]), many.ids["jobs"]

    rows = await walk(
        gateway,
        "/api/v1/runs",
        many.headers,
        limit,
        lambda count: many.grow("runs", count),
        added=ADDED,
        pages=JOBS // 2 // limit,
    )

    check(rows, existing, "run_id")
    assert not foreign & {row["run_id"] for row in rows}


@pytest.mark.parametrize(
    ("path", "surface", "id_name"), [("/v1/jobs", "jobs", "id"), ("/api/v1/runs", "runs", "run_id")]
)
async def test_a_walk_row_by_row_is_whole(
    gateway: Gateway, path: str, surface: Surface, id_name: str
) -> None:
    few = await jobs_of(gateway, 120)
    existing = set(few.ids["runs"])

    rows = await walk(
        gateway,
        path,
        few.headers,
        1,
        lambda count: few.grow(surface, count),
        added=60,
        pages=60,
    )

    check(rows, existing, id_name)
    assert {row["status"] for row in rows} <= {"queued", "failed"}


@pytest.mark.parametrize(
    ("path", "add"),
    [
        ("/v1/datasets", add_datasets),
        ("/v1/models", add_models),
        ("/v1/api-keys", add_keys),
        ("/v1/webhooks", add_webhooks),
        ("/v1/webhooks/{account_id}/deliveries", add_deliveries),
    ],
)
@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_other_lists_are_walked_while_they_grow(
    gateway: Gateway, path: str, add: Callable[[Gateway, UUID, int], Awaitable[None]], limit: int
) -> None:
    account_id, key = await gateway.account(cents=0)
    path = path.format(account_id=account_id)
    await add(gateway, account_id, OLD)

    async def existing() -> set[str]:
        return {row["id"] for row in await walk(gateway, path, bearer(key), 100, no_growth)}

    before = await existing()
    assert len(before) >= OLD
    rows = await walk(
        gateway,
        path,
        bearer(key),
        limit,
        lambda count: add(gateway, account_id, count),
        added=NEW,
        pages=-(-OLD // limit),
    )

    shown = [row["id"] for row in rows]
    assert len(set(shown)) == len(shown)
    assert before <= set(shown)
    assert len(await existing()) == len(before) + NEW


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_a_timeline_is_walked_by_its_links_while_it_grows(
    gateway: Gateway, limit: int
) -> None:
    account_id, key = await gateway.account(cents=0)
    append, state = first_append(uuid4(), account_id, submission(), BEGAN)
    await gateway.parts.log.append(append)
    head = head_after(append)

    async def checkpoint(step: int) -> None:
        nonlocal head
        saved = Checkpoint(
            step=step, key="checkpoint", sha256="0" * 64, size_bytes=1, tokens_processed=step
        )
        following = next_append(head, state, JobCheckpointed(epoch=1, checkpoint=saved))
        await gateway.parts.log.append(following)
        head = head_after(following)

    for step in range(OLD):
        await checkpoint(step)
    path: str | None = f"/v1/jobs/{state.id}/events?limit={limit}"
    steps: list[int] = []
    grown = 0
    while path is not None:
        answer = await gateway.client.get(path, headers=bearer(key))
        moments = decoded(answer)
        assert len(moments) <= limit
        steps += [each["payload"]["step"] for each in moments if "step" in each["payload"]]
        link = answer.links.get("next")
        assert (link is None) is ("x-next-cursor" not in answer.headers)
        path = link["url"] if link else None
        if path is not None and grown < NEW:
            await checkpoint(OLD + grown)
            grown += 1

    assert steps == list(range(OLD + grown))
