"""Lists stay whole while they grow: a walk by cursor meets each row once, and misses none.

Between any two pages rows are added, in front of the cursor and behind it, and others change; the
next page is asked for while that happens.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import astuple, replace

from deploy.local.s3 import S3Settings
from libs.contracts.base import Surface
from libs.contracts.scheduler import Checkpoint, JobCheckpointed, JobFailed, JobLeased
from libs.eventlog.record import Append, Head, JobRow, Record
from libs.jobstate.state import JobState, fold, row_of
from services.gateway.access.keys import create_key
from services.gateway.dataset_rows import Dataset, store_dataset
from tests.integration.gateway_app import PEPPER, Gateway, bearer, decoded, running_gateway
from tests.support.jobs import first_append, next_append, submission
from tests.support.stack import Database, Nats

JOBS = 10_000
ADDED = 1_000
SURFACES: tuple[Surface, ...] = ("jobs", "runs")
TIES = 3  # jobs of one microsecond: their ids decide
OLD, NEW = 60, 30  # of the other lists
BEGAN = datetime.now(UTC) - timedelta(days=1)

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


def head_after(append: Append) -> Head:
    last = append.records[-1]
    return Head(stream=last.stream, version=last.version, hash=last.hash)


class Jobs:
    """The jobs of one account, which a test may have more of, and have changed."""

    def __init__(self, gateway: Gateway, account_id: UUID, key: str) -> None:
        self._gateway = gateway
        self._account_id = account_id
        self.headers = bearer(key)
        self._unchanged: list[tuple[Head, JobState]] = []
        self._moments: list[datetime] = []
        self.ids: dict[Surface, set[str]] = {"runs": set(), "jobs": set()}
        self.changed: set[str] = set()

    async def store_old(self, moments: Sequence[datetime]) -> None:
        """A job at each moment, every other one a run: copied, which is faster than appending."""
        old = [self._first(at, SURFACES[n % 2]) for n, at in enumerate(moments)]
        records = [astuple(record) for append, _ in old for record in append.records]
        rows = [astuple(append.job) for append, _ in old if append.job]
        async with self._gateway.admin.acquire() as connection:
            for table, kind, values in (("event", Record, records), ("job", JobRow, rows)):
                await connection.copy_records_to_table(
                    table, schema_name="log", columns=kind.__struct_fields__, records=values
                )
        self._durable(old)

    def _first(self, at: datetime, surface: Surface) -> tuple[Append, JobState]:
        return first_append(uuid4(), self._account_id, submission(surface=surface), at)

    def _durable(self, stored: Sequence[tuple[Append, JobState]]) -> None:
        for append, state in stored:
            self._unchanged.append((head_after(append), state))
            self._moments.append(state.created_at)
            self.ids[state.surface].add(str(state.id))

    async def grow(self, surface: Surface, count: int) -> None:
        """More jobs: of now, and of the very moments that others have, as if a replica's clock ran
        late. As many of the old ones fail meanwhile."""
        now = datetime.now(UTC)
        moments = [random.choice([now, random.choice(self._moments)]) for _ in range(count)]
        failing = [self._fail_one() for _ in range(count)]
        new = [self._first(at, surface) for at in moments]
        submitting = [self._gateway.parts.log.append(append) for append, _ in new]
        await asyncio.gather(*submitting, *failing)
        self._durable(new)

    async def _fail_one(self) -> None:
        head, state = self._unchanged.pop(random.randrange(len(self._unchanged)))
        events = (
            JobLeased(epoch=1, trainer_id="trainer-0"),
            JobFailed(code="out_of_memory", message="Lower batch_size."),
        )
        after = state
        for event in events:
            after = fold(after, event, datetime.now(UTC))
        self.changed.add(str(state.id))
        await self._gateway.parts.log.append(next_append(head, state, *events, job=row_of(after)))


async def jobs_of(gateway: Gateway, count: int) -> Jobs:
    account_id, key = await gateway.account(cents=0)
    jobs = Jobs(gateway, account_id, key)
    moments = [BEGAN + timedelta(microseconds=number // TIES) for number in range(count)]
    await jobs.store_old(moments)
    return jobs


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


async def add_datasets(gateway: Gateway, account_id: UUID, count: int) -> None:
    for number in range(count):
        dataset_id = uuid4()
        await store_dataset(
            gateway.parts.pool,
            Dataset(
                id=dataset_id,
                name=f"rows {number}",
                filename=None,
                kind="text",
                rows=1,
                tokens=1,
                size_bytes=1,
                sha256="0" * 64,
                created_at=BEGAN + timedelta(microseconds=number // TIES),
            ),
            account_id=account_id,
            object_key=f"datasets/{dataset_id}",
            key=None,
            key_life=timedelta(hours=24),
            request_sha256="0" * 64,
        )


async def add_models(gateway: Gateway, account_id: UUID, count: int) -> None:
    """A completed job for each, of which the list reads the read model alone."""
    rows = []
    for number in range(count):
        at = BEGAN + timedelta(microseconds=number // TIES)
        _, state = first_append(uuid4(), account_id, submission(output_model_id=uuid4()), at)
        rows.append(row_of(replace(state, status="completed", finished_at=at)))
    async with gateway.admin.acquire() as connection:
        await connection.copy_records_to_table(
            "job",
            schema_name="log",
            columns=JobRow.__struct_fields__,
            records=[astuple(row) for row in rows],
        )


async def add_keys(gateway: Gateway, account_id: UUID, count: int) -> None:
    """As an operator makes them: beyond what a plan allows."""
    for number in range(count):
        await create_key(
            gateway.admin,
            account_id=account_id,
            name=f"key {number}",
            pepper=PEPPER,
            secret=secrets.token_bytes(32),
            now=BEGAN + timedelta(microseconds=number // TIES),
        )


async def add_webhooks(gateway: Gateway, account_id: UUID, count: int) -> None:
    """More than an account may have, so that there is something to walk."""
    await gateway.admin.execute(
        "INSERT INTO webhooks.endpoint"
        " (id, account_id, url, enabled, secret, created_at, updated_at)"
        " SELECT id, $2, 'https://example.com/', true, '', at, at"
        " FROM unnest($1::uuid[], $3::timestamptz[]) AS one (id, at)",
        *([uuid4() for _ in range(count)], account_id, moments(count)),
    )


async def add_deliveries(gateway: Gateway, account_id: UUID, count: int) -> None:
    """Of a webhook whose id is the account's."""
    await gateway.admin.execute(
        "INSERT INTO webhooks.endpoint"
        " (id, account_id, url, enabled, secret, created_at, updated_at)"
        " VALUES ($1, $1, 'https://example.com/', true, '', $2, $2) ON CONFLICT DO NOTHING",
        *(account_id, BEGAN),
    )
    await gateway.admin.execute(
        "INSERT INTO webhooks.delivery"
        " (id, endpoint_id, event_id, event_type, status, step, attempts, created_at)"
        " SELECT id, $2, id, 'ping', 'failed', 10, 10, at"
        " FROM unnest($1::uuid[], $3::timestamptz[]) AS one (id, at)",
        *([uuid4() for _ in range(count)], account_id, moments(count)),
    )


def moments(count: int) -> list[datetime]:
    return [BEGAN + timedelta(microseconds=number // TIES) for number in range(count)]


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
