"""The live stream: what a job, or any job of the account, says and becomes, as it happens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, get_args
from uuid import UUID

from litestar.params import FromPath
from msgspec import Meta, Struct

from libs.contracts.telemetry_rpc import MessageKind
from libs.contracts.training import LogLine, MetricPoint
from libs.jobstate.notice import Notice
from services.gateway.http.errors import ApiError, as_api_error, invalid
from services.gateway.http.event_stream import EventStream, Pieces
from services.gateway.http.operation import operation
from services.gateway.http.problems import PROBLEMS
from services.gateway.job_rows import own_job
from services.gateway.parts import Asked, caller_of, parts_of
from services.gateway.reading import read_query
from services.gateway.streams.hub import RETRY_MS, Wanted

KINDS: tuple[MessageKind, ...] = get_args(MessageKind)
MAX_ID_DIGITS = 15  # under 2^53, as all integers of the contract are
LAST_ID = "Last-Event-ID"


class NewPoints(Struct, frozen=True, kw_only=True):
    """What a job has measured. A step and phase that come again, after the job was taken up anew,
    replace what was said before."""

    job_id: UUID
    points: list[MetricPoint]


class NewLines(Struct, frozen=True, kw_only=True):
    """What a job has written on its console."""

    job_id: UUID
    lines: list[LogLine]


class StreamQuery(Struct, frozen=True, kw_only=True):
    """Which messages to send; all, if nothing is said."""

    types: (
        Annotated[
            str,
            Meta(
                max_length=255,
                pattern="^(state|metrics|log|done)(,(state|metrics|log|done))*$",
                description="The events to send, with commas between them; without it, all.",
            ),
        ]
        | None
    ) = None


EVENTS: dict[str, Any] = {"state": Notice, "metrics": NewPoints, "log": NewLines, "done": Notice}


@operation(
    "GET",
    "/v1/jobs/{job_id}/stream",
    id="streamJob",
    tag="Jobs",
    scope="read",
    answer=Notice,
    events=EVENTS,
    refuses=("too_many_streams", "validation_failed"),
)
async def stream_job(request: Asked, job_id: FromPath[str]) -> EventStream:
    """Follow a job live.

    Server-sent events from the job's beginning: `state` when its status changes (the payload of a
    webhook), `metrics` and `log` as they come, and `done`, with its last state, when it has ended.
    Then the stream ends. Send the id of the last message that you have as `Last-Event-ID` to go on
    behind it; after `done`, that is answered with 204. Without news there is a comment every 15
    seconds. Ids ascend; they are the account's, so a job's have gaps between them.
    """
    job = await own_job(request, job_id)
    account_id = caller_of(request).account_id
    wanted = Wanted(account_id=account_id, job_id=job.id, kinds=KINDS)
    return EventStream(partial(_opened, request, wanted, last_id(request)))


@operation(
    "GET",
    "/v1/stream",
    id="streamAccount",
    tag="Jobs",
    scope="read",
    answer=Notice,
    events=EVENTS,
    query=StreamQuery,
    refuses=("too_many_streams",),
)
async def stream_account(request: Asked) -> EventStream:
    """Follow all jobs live.

    The messages of `GET /v1/jobs/{job_id}/stream` for every job of the account, from now on, or
    behind the `Last-Event-ID` that is sent. It never ends by itself.
    """
    query = read_query(request, StreamQuery)
    kinds = tuple(kind for kind in KINDS if query.types is None or kind in query.types.split(","))
    wanted = Wanted(account_id=caller_of(request).account_id, job_id=None, kinds=kinds)
    return EventStream(partial(_opened, request, wanted, last_id(request)))


def last_id(request: Asked) -> int | None:
    """The header's number; None without one. Raises ApiError 422."""
    text = request.headers.get(LAST_ID, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS):
        raise _foreign_id()
    return int(text)


def _foreign_id() -> ApiError:
    return invalid(
        f"{LAST_ID}: send the id of a message of this account's streams, unchanged, or leave the"
        " header out"
    )


@asynccontextmanager
async def _opened(
    request: Asked, wanted: Wanted, after: int | None
) -> AsyncIterator[Pieces | None]:
    streams = parts_of(request).streams
    async with streams.joined(wanted.account_id) as channel:
        ends = await streams.ends(wanted)
        if after is not None and after > max(ends.last, channel.last):
            raise _foreign_id()
        if ends.done is not None and after is not None and after >= ends.done:
            yield None
            return
        # A new stream of the account begins behind what was there before it was asked for.
        begin = after if after is not None else (0 if wanted.job_id else ends.last)
        pieces = streams.pieces(channel, wanted, begin, partial(_may_read, request))
        yield _with_greeting(pieces, None if wanted.job_id else begin)


async def _with_greeting(pieces: Pieces, begin: int | None) -> AsyncIterator[bytes]:
    """How soon to come back, and where the account's stream began: an id without data is no
    message, and whoever is cut off before the first one still misses nothing."""
    yield (f"retry: {RETRY_MS}\n" + (f"id: {begin}\n" if begin is not None else "") + "\n").encode()
    async for piece in pieces:
        yield piece


async def _may_read(request: Asked) -> bool:
    """Whether the key still counts, and for this. What can't be found out now is asked again at
    the next heartbeat."""
    scope: Any = request.scope
    authorization = next((of for name, of in scope["headers"] if name == b"authorization"), None)
    try:
        caller = await parts_of(request).authenticator.caller(authorization, scope["path"])
    except Exception as error:
        return as_api_error(error).status != PROBLEMS["invalid_api_key"].status
    return caller.account_id == caller_of(request).account_id and "read" in caller.scopes


ROUTES = (stream_job, stream_account)
