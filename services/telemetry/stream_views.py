"""Reading an account's stream: where it ends, and pages of it."""

import msgspec

from libs.contracts.events import type_of
from libs.contracts.scheduler import JobCancelled, JobCompleted, JobFailed
from libs.contracts.telemetry_rpc import (
    GetMessages,
    MessagePage,
    OpenStream,
    StreamEnds,
    StreamMessage,
)
from libs.jobstate.state import job_stream
from services.telemetry.states import Teller, settle, tell_until

MAX_PAGE = 128 * 1024
"""Bytes of messages in a page, and at least one: each slow client holds one in a gateway."""

MAX_MESSAGES = 500  # of a page; small ones are some hundred bytes each

LAST_SQL = """
SELECT coalesce((SELECT last FROM telemetry.sequence WHERE account_id = $1), 0)
"""
DONE_SQL = """
SELECT max(place) FROM telemetry.message WHERE account_id = $1 AND job_id = $2 AND kind = 'done'
"""
END_SQL = """
SELECT max(version) FROM log.event
WHERE stream = $1 AND account_id = $2 AND type = ANY($3)
"""
ENDS = [type_of(event_class) for event_class in (JobCompleted, JobFailed, JobCancelled)]

# A page ends behind the message with which it reaches its size. $1: account, $2: job or null.
PAGE_SQL = """
SELECT place, job_id, kind, payload FROM (
    SELECT place, job_id, kind, payload,
           sum(octet_length(payload)) OVER (ORDER BY place) - octet_length(payload) AS before
    FROM telemetry.message
    WHERE {mine} AND kind = ANY($2) AND place > $3 AND place <= $4
    ORDER BY place LIMIT $5
) page WHERE before < $6 ORDER BY place
"""
ACCOUNT_SQL = PAGE_SQL.format(mine="account_id = $1")
JOB_SQL = PAGE_SQL.format(mine="account_id = $1 AND job_id = $7")


async def open_stream(teller: Teller, request: OpenStream) -> StreamEnds:
    """Of a job that has ended, its last state is told before this returns: it may be one that
    ended before there were streams."""
    done = None
    if request.job_id is not None:
        done = await teller.pool.fetchval(DONE_SQL, request.account_id, request.job_id)
        if done is None:
            stream = job_stream(request.job_id)
            version = await teller.pool.fetchval(END_SQL, stream, request.account_id, ENDS)
            if version is not None:
                await settle(teller.broker, request.job_id)
                await tell_until(teller, request.account_id, stream, version)
                done = await teller.pool.fetchval(DONE_SQL, request.account_id, request.job_id)
    return StreamEnds(last=await teller.pool.fetchval(LAST_SQL, request.account_id), done=done)


async def read_messages(teller: Teller, request: GetMessages) -> MessagePage:
    """``last`` is the account's, read before the page, when nothing more is left up to there."""
    async with teller.pool.acquire() as connection:
        last = await connection.fetchval(LAST_SQL, request.account_id)
        narrowed = () if request.job_id is None else (request.job_id,)
        rows = await connection.fetch(
            JOB_SQL if narrowed else ACCOUNT_SQL,
            request.account_id,
            list(request.kinds),
            request.after,
            last,
            MAX_MESSAGES,
            MAX_PAGE,
            *narrowed,
        )
    size = sum(len(row["payload"]) for row in rows)
    whole = len(rows) < MAX_MESSAGES and size < MAX_PAGE
    return MessagePage(
        messages=tuple(
            StreamMessage(
                place=row["place"],
                job_id=row["job_id"],
                kind=row["kind"],
                payload=msgspec.Raw(row["payload"]),
            )
            for row in rows
        ),
        last=max(last, request.after) if whole else rows[-1]["place"],
    )
