"""The data sets of one account: rows of ``gateway.dataset``."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from libs.contracts.base import DatasetKind, DatasetRef
from libs.objectstore import ObjectStore
from services.gateway.http.errors import not_found
from services.gateway.http.pages import Page, Place, page

DELETION_GRACE = timedelta(minutes=1)
"""A submission that has just read the data set has appended its job by then."""

REMOVABLE_SQL = """
SELECT d.id, d.object_key FROM gateway.dataset d
WHERE d.deleted_at < $1
  AND NOT EXISTS (
      SELECT FROM log.job j
      WHERE j.account_id = d.account_id AND j.status IN ('queued', 'running')
        AND d.id::text IN (
            convert_from(j.state, 'UTF8')::jsonb #>> '{dataset,id}',
            convert_from(j.state, 'UTF8')::jsonb #>> '{validation,id}'))
LIMIT 1
"""

COLUMNS = "id, name, filename, kind, rows, tokens, size_bytes, sha256, created_at"


class Dataset(Struct, frozen=True, kw_only=True):
    """As its owner sees it. ``tokens`` is an estimate: UTF-8 bytes of the texts / 4."""

    id: UUID
    name: str
    filename: str | None
    kind: DatasetKind
    rows: int
    tokens: int
    size_bytes: int
    sha256: str
    created_at: datetime


class Stored(Struct, frozen=True, kw_only=True):
    """The outcome of `store`: the data set that the request's key stands for."""

    dataset: Dataset
    request_sha256: str
    object_key: str


def _dataset(row: Any) -> Dataset:
    return msgspec.convert(dict(row), Dataset)


async def own_dataset(pool: Any, account_id: UUID, dataset_id: UUID) -> DatasetRef:
    """The account's data set as a job refers to it. Raises ApiError 404."""
    row = await pool.fetchrow(
        "SELECT id, object_key AS key, sha256, size_bytes, rows, tokens, kind"
        " FROM gateway.dataset"
        " WHERE id = $1 AND account_id = $2 AND deleted_at IS NULL",
        dataset_id,
        account_id,
    )
    if row is None:
        raise not_found("dataset")
    return msgspec.convert(dict(row), DatasetRef)


async def find_dataset(pool: Any, account_id: UUID, dataset_id: UUID) -> Dataset:
    """Raises ApiError 404."""
    row = await pool.fetchrow(
        f"SELECT {COLUMNS} FROM gateway.dataset"
        " WHERE id = $1 AND account_id = $2 AND deleted_at IS NULL",
        dataset_id,
        account_id,
    )
    if row is None:
        raise not_found("dataset")
    return _dataset(row)


async def delete_dataset(pool: Any, account_id: UUID, dataset_id: UUID, now: datetime) -> None:
    """Nothing takes it from now on, and its key is free; `remove_deleted` does the rest.

    Raises ApiError 404.
    """
    row = await pool.fetchrow(
        "UPDATE gateway.dataset SET deleted_at = $3, idempotency_key = NULL"
        " WHERE id = $1 AND account_id = $2 AND deleted_at IS NULL RETURNING id",
        dataset_id,
        account_id,
        now,
    )
    if row is None:
        raise not_found("dataset")


async def remove_deleted(pool: Any, store: ObjectStore, clock: Callable[[], datetime]) -> int:
    """Remove the files of deleted data sets that no waiting or running job needs; how many.

    Any number of replicas may do it at once: no job can come to need such a data set, so a file is
    removed twice at most. The row goes last, and no transaction waits for the store: PostgreSQL
    would end its session, and the file of a row that is still there is removed again.
    """
    removed = 0
    while row := await pool.fetchrow(REMOVABLE_SQL, clock() - DELETION_GRACE):
        await store.delete(row["object_key"])
        gone = await pool.execute("DELETE FROM gateway.dataset WHERE id = $1", row["id"])
        removed += gone == "DELETE 1"
    return removed


async def dataset_page(pool: Any, account_id: UUID, after: Place, limit: int) -> Page[Dataset]:
    """One page of the account's data sets, newest first."""
    rows = await pool.fetch(
        f"SELECT {COLUMNS} FROM gateway.dataset"
        " WHERE account_id = $1 AND (created_at, id) < ($2, $3) AND deleted_at IS NULL"
        " ORDER BY created_at DESC, id DESC LIMIT $4",
        account_id,
        after.created_at,
        after.id,
        limit + 1,
    )
    datasets: Sequence[Dataset] = [_dataset(row) for row in rows]
    return page(datasets, limit, lambda one: Place(one.created_at, one.id))


async def store_dataset(
    pool: Any,
    dataset: Dataset,
    *,
    account_id: UUID,
    object_key: str,
    key: str | None,
    key_life: timedelta,
    request_sha256: str,
) -> Stored:
    """Remember the data set, unless its idempotency key already stands for one: then that one.

    Requests under one key that race are ordered by the key's unique index.
    """
    async with pool.acquire() as connection, connection.transaction():
        if key is not None:
            await connection.execute(
                "UPDATE gateway.dataset SET idempotency_key = NULL"
                " WHERE (account_id, idempotency_key) = ($1, $2) AND created_at < $3",
                account_id,
                key,
                dataset.created_at - key_life,
            )
        await connection.execute(
            "INSERT INTO gateway.dataset (id, account_id, name, filename, object_key, sha256,"
            " size_bytes, rows, tokens, kind, created_at, idempotency_key, request_sha256)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
            " ON CONFLICT (account_id, idempotency_key) DO NOTHING",
            dataset.id,
            account_id,
            dataset.name,
            dataset.filename,
            object_key,
            dataset.sha256,
            dataset.size_bytes,
            dataset.rows,
            dataset.tokens,
            dataset.kind,
            dataset.created_at,
            key,
            request_sha256,
        )
    row = await pool.fetchrow(
        f"SELECT {COLUMNS}, request_sha256, object_key FROM gateway.dataset"
        " WHERE account_id = $1 AND (id = $2 OR idempotency_key = $3)",
        account_id,
        dataset.id,
        key,
    )
    return Stored(
        dataset=_dataset(row),
        request_sha256=row["request_sha256"],
        object_key=row["object_key"],
    )
