"""Rows for lists that grow while they are walked: many at one moment, added before and behind."""

import asyncio
import random
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from msgspec.structs import astuple, replace

from libs.contracts.base import Surface
from libs.contracts.scheduler import JobFailed, JobLeased
from libs.eventlog.record import Append, Head, JobRow, Record
from libs.jobstate.state import JobState, fold, row_of
from services.gateway.access.keys import create_key
from services.gateway.dataset_rows import Dataset, store_dataset
from tests.integration.gateway_app import PEPPER, Gateway, bearer
from tests.support.jobs import first_append, next_append, submission

SURFACES: tuple[Surface, ...] = ("jobs", "runs")
TIES = 3  # jobs of one microsecond: their ids decide
BEGAN = datetime.now(UTC) - timedelta(days=1)


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
