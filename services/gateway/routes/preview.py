"""How a data set's rows look to a model: tokens, and what of them is learnt."""

import base64
import binascii
from datetime import timedelta
from typing import Annotated
from uuid import UUID

import msgspec
from litestar.params import FromPath
from msgspec import Meta, Struct

from libs.bus.rpc import Unanswered, ask
from libs.contracts.artifact_rpc import InputFile
from libs.contracts.base import DatasetKind, ModelSource
from libs.contracts.rpc import Ping, ping_of
from libs.contracts.trainer_rpc import (
    MAX_PREVIEW_ROWS,
    PREVIEW,
    GetPreview,
    NextRows,
    Preview,
    PreviewRefused,
    PreviewRow,
)
from libs.jobstate.view import ModelName
from services.gateway.bases import find_base, not_available
from services.gateway.dataset_rows import own_dataset
from services.gateway.http.errors import ApiError, invalid
from services.gateway.http.operation import operation
from services.gateway.http.pages import MAX_CURSOR
from services.gateway.http.replies import Reply, reply
from services.gateway.job_requests import ModelRefText, SeqLen
from services.gateway.parts import Asked, Parts, caller_of, id_in_path, parts_of
from services.gateway.reading import read_query
from services.gateway.recommend_rules import row_length

DEFAULT_ROWS = 5
LINK = timedelta(minutes=5)  # within which a trainer begins to read
ANYBODY = 2.0  # seconds; a trainer that is there answers a ping in milliseconds
PATIENCE = 20.0  # seconds; the first preview of a model of the hub's fetches its tokenizer
TRAINER = ping_of("trainer")
HEAVY = (".safetensors", ".tar", ".tar.gz", ".bin")  # no part of any tokenizer


class PreviewQuery(Struct, frozen=True, kw_only=True):
    """Which rows, and to which model they are shown."""

    model: Annotated[ModelRefText, Meta(description="A model: its UUID, or its slug.")]
    limit: Annotated[
        int, Meta(ge=1, le=MAX_PREVIEW_ROWS, description="Lines in an answer, at most.")
    ] = DEFAULT_ROWS
    cursor: (
        Annotated[
            str, Meta(max_length=MAX_CURSOR, description="The next_cursor of an earlier answer.")
        ]
        | None
    ) = None
    seq_len: SeqLen | None = None


class DatasetPreview(Struct, frozen=True, kw_only=True):
    """Rows in their order, as many as fit into an answer. Of a preference, each answer is a row.
    ``seq_len`` is what longer rows are cut to; a job that names none takes the same."""

    dataset_id: UUID
    kind: DatasetKind
    model: ModelName
    seq_len: int
    data: list[PreviewRow]
    next_cursor: str | None
    has_more: bool


_decode_place = msgspec.json.Decoder(NextRows).decode


@operation(
    "GET",
    "/v1/datasets/{dataset_id}/preview",
    id="previewDataset",
    tag="Datasets",
    scope="read",
    answer=DatasetPreview,
    query=PreviewQuery,
    refuses=("model_not_available",),
)
async def preview_dataset(request: Asked, dataset_id: FromPath[str]) -> Reply:
    """See a data set's rows as a model's training sees them.

    For each row the tokens, which of them the model learns to say, and how many are cut off. They
    are made by a trainer, with the functions that it trains with: 503 when none is running.
    """
    query = read_query(request, PreviewQuery)
    parts, account_id = parts_of(request), caller_of(request).account_id
    dataset = await own_dataset(parts.pool, account_id, id_in_path(dataset_id, "dataset"))
    begin = _place_of(query.cursor, dataset.size_bytes)
    base = await find_base(parts, account_id, query.model)
    seq_len = query.seq_len or row_length(base.facts.advised.seq_len, max(1, dataset.tokens)).value
    question = GetPreview(
        source=base.ref.source,
        files=await _tokenizer_files(parts, base.ref.source),
        dataset_url=await parts.store.presign_get(dataset.key, LINK),
        kind=dataset.kind,
        offset=begin.offset,
        line=begin.line,
        limit=query.limit,
        seq_len=seq_len,
    )
    found = await _asked(parts, question)
    if isinstance(found, PreviewRefused):
        raise not_available(query.model, found.reason)
    return reply(
        DatasetPreview(
            dataset_id=dataset.id,
            kind=dataset.kind,
            model=ModelName(base.ref.id, base.ref.slug),
            seq_len=seq_len,
            data=list(found.rows),
            next_cursor=_cursor_of(found.following),
            has_more=found.following is not None,
        )
    )


async def _asked(parts: Parts, question: GetPreview) -> Preview | PreviewRefused:
    """Raises ApiError 503 when there is no trainer, or none that has time."""
    try:
        await ask(parts.broker, TRAINER, Ping(), deadline=ANYBODY)
    except Unanswered as error:
        raise _nobody("No trainer is running here, and a trainer makes previews") from error
    try:
        return await ask(parts.broker, PREVIEW, question, deadline=PATIENCE, patience=PATIENCE)
    except Unanswered as error:
        raise _nobody("No trainer could make the preview in time") from error


def _nobody(why: str) -> ApiError:
    return ApiError(
        "service_unavailable",
        f"{why}; ask again shortly, and the operator if it stays so. Jobs can be submitted all the"
        " same.",
        headers={"Retry-After": str(int(ANYBODY))},
    )


async def _tokenizer_files(parts: Parts, source: ModelSource) -> tuple[InputFile, ...]:
    """Links to everything at the model's prefix but its large files; the trainer takes what it
    needs."""
    if source.kind != "s3":
        return ()
    names = [
        (key.removeprefix(source.prefix), key) async for key in parts.store.keys(source.prefix)
    ]
    return tuple(
        [
            InputFile(name=name, url=await parts.store.presign_get(key, LINK))
            for name, key in names
            if "/" not in name and not name.endswith(HEAVY)
        ]
    )


def _cursor_of(place: NextRows | None) -> str | None:
    if place is None:
        return None
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _place_of(cursor: str | None, size_bytes: int) -> NextRows:
    """Raises ApiError 422 for a cursor that is none of this data set's."""
    if cursor is None:
        return NextRows(0, 1)
    try:
        place = _decode_place(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError, binascii.Error) as error:
        raise _bad_cursor() from error
    if place.line < 1 or place.offset > size_bytes:
        raise _bad_cursor()
    return place


def _bad_cursor() -> ApiError:
    return invalid("cursor: pass the next_cursor of an earlier answer, unchanged")


ROUTES = (preview_dataset,)
