"""Data sets of the Jobs API: uploaded once, used by any number of jobs."""

from typing import Annotated

import msgspec
from litestar.params import FromPath
from msgspec import Meta, Struct

from services.gateway.dataset_rows import (
    Dataset,
    dataset_page,
    delete_dataset,
    find_dataset,
    store_dataset,
)
from services.gateway.http.errors import ApiError, invalid
from services.gateway.http.operation import FormBody, operation
from services.gateway.http.pages import Page, PageQuery, place_of
from services.gateway.http.replies import Deleted, Reply, reply
from services.gateway.model import HEADER_KEY_LIFE, digest
from services.gateway.parts import Asked, caller_of, id_in_path, parts_of
from services.gateway.reading import content_length, header_key, problem_of, read_query
from services.gateway.submission import conflict
from services.gateway.upload.receive import receive

FILE_FIELD = "file"
UNNAMED = "dataset"


class DatasetForm(Struct, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*$")] | None = None


@operation(
    "POST",
    "/v1/datasets",
    id="createDataset",
    tag="Datasets",
    scope="write",
    answer=Dataset,
    status=201,
    form=FormBody(fields=DatasetForm, file=FILE_FIELD),
    refuses=("idempotency_conflict",),
    idempotency_key=True,
    links={"dataset_id": "/id"},
)
async def create_dataset(request: Asked) -> Reply:
    """Upload a data set.

    JSON lines, at most 600 MB, each row of one kind: messages; prompt and completion; instruction
    and output; text; or prompt, chosen and rejected (preferences). Every bad line is named.
    """
    parts, account_id = parts_of(request), caller_of(request).account_id
    key = header_key(request, "jobs")
    dataset_id = parts.new_id()
    received = await receive(
        request.stream(),
        request.headers.get("content-type", ""),
        allowed_fields=frozenset(DatasetForm.__struct_fields__),
        file_field=FILE_FIELD,
        store=parts.store,
        key=f"datasets/{account_id}/{dataset_id}.jsonl",
        content_length=content_length(request),
    )
    try:
        form = checked_form(received.fields)
        facts = received.dataset
        request_sha256 = digest([form, facts.sha256])
        stored = await store_dataset(
            parts.pool,
            Dataset(
                id=dataset_id,
                name=form.name or received.filename or UNNAMED,
                filename=received.filename,
                kind=facts.kind,
                rows=facts.rows,
                tokens=facts.tokens,
                size_bytes=facts.size_bytes,
                sha256=facts.sha256,
                created_at=parts.now(),
            ),
            account_id=account_id,
            object_key=received.key,
            key=key.text if key else None,
            key_life=HEADER_KEY_LIFE,
            request_sha256=request_sha256,
        )
        if stored.request_sha256 != request_sha256:
            raise conflict()
    except ApiError:
        await parts.store.delete(received.key)
        raise
    replayed = stored.object_key != received.key
    if replayed:
        await parts.store.delete(received.key)
    return reply(
        stored.dataset, status=201, headers={"Idempotency-Replayed": "true"} if replayed else None
    )


def checked_form(fields: dict[str, str]) -> DatasetForm:
    """Raises ApiError 422."""
    try:
        return msgspec.convert(fields, DatasetForm)
    except msgspec.ValidationError as error:
        raise invalid(problem_of(error)) from error


@operation(
    "GET",
    "/v1/datasets",
    id="listDatasets",
    tag="Datasets",
    scope="read",
    answer=Page[Dataset],
    query=PageQuery,
    links={"dataset_id": "/data/0/id"},
)
async def list_datasets(request: Asked) -> Reply:
    """List data sets, newest first."""
    query = read_query(request, PageQuery)
    return reply(
        await dataset_page(
            parts_of(request).pool,
            caller_of(request).account_id,
            place_of(query.cursor),
            query.limit,
        )
    )


@operation(
    "GET",
    "/v1/datasets/{dataset_id}",
    id="getDataset",
    tag="Datasets",
    scope="read",
    answer=Dataset,
)
async def one_dataset(request: Asked, dataset_id: FromPath[str]) -> Reply:
    """Get a data set's description."""
    return reply(
        await find_dataset(
            parts_of(request).pool,
            caller_of(request).account_id,
            id_in_path(dataset_id, "dataset"),
        )
    )


@operation(
    "DELETE",
    "/v1/datasets/{dataset_id}",
    id="deleteDataset",
    tag="Datasets",
    scope="write",
    answer=Deleted,
)
async def remove_dataset(request: Asked, dataset_id: FromPath[str]) -> Reply:
    """Delete a data set.

    It can't be used any more at once. Its file is removed within minutes, or when the last job
    that waits for it or works on it has ended.
    """
    parts, found = parts_of(request), id_in_path(dataset_id, "dataset")
    await delete_dataset(parts.pool, caller_of(request).account_id, found, parts.now())
    return reply(Deleted(found))


ROUTES = (create_dataset, list_datasets, one_dataset, remove_dataset)
