"""One submission: look the key up, reserve the price, append the job, or replay the earlier one.

With a key, the job's id follows from it: requests that race share one reservation and one stream,
so exactly one append wins, and the others answer with what the winner stored.
"""

from datetime import datetime
from typing import Any, assert_never
from uuid import UUID

import structlog
from msgspec import Struct

from libs.bus.rpc import ask
from libs.contracts.billing_rpc import (
    RESERVE,
    InsufficientBalance,
    PaymentRequired,
    Reserve,
    Reserved,
    ReservedDifferently,
)
from libs.contracts.events import decode_job_event
from libs.contracts.gateway import JobSubmitted
from libs.eventlog.groupcommit import LogUnavailable
from libs.eventlog.read import decode_meta
from libs.eventlog.record import (
    Append,
    Context,
    Head,
    IdempotencyRow,
    KeyTaken,
    VersionConflict,
    records_after,
)
from libs.jobstate.state import job_stream, row_of, submitted
from libs.observability.spans import current_span
from libs.observability.trace import current_traceparent
from services.gateway.http.errors import RETRY_SECONDS, ApiError
from services.gateway.model import (
    Conflict,
    Earlier,
    Fresh,
    Key,
    Order,
    job_id_of,
    quote_of,
    standing,
    submission,
)
from services.gateway.parts import Parts

logger = structlog.get_logger()

BY_KEY_SQL = """
SELECT i.request_sha256, i.generation, i.expires_at, i.job_id, e.data, e.meta
FROM log.idempotency i JOIN log.event e ON e.stream = 'job:' || i.job_id AND e.version = 1
WHERE (i.account_id, i.scope, i.key) = ($1, $2, $3)
"""


class Settled(Struct, frozen=True, kw_only=True):
    """The job that answers a submission; the same for its first request and for every replay."""

    job_id: UUID
    account_id: UUID
    event: JobSubmitted
    at: datetime
    replayed: bool


async def find_earlier(pool: Any, account_id: UUID, key: Key) -> Earlier | None:
    """The submission that the key stands for, from the log; expired ones too."""
    row = await pool.fetchrow(BY_KEY_SQL, account_id, key.scope, key.text)
    if row is None:
        return None
    return Earlier(
        request_sha256=row["request_sha256"],
        generation=row["generation"],
        expires_at=row["expires_at"],
        job_id=row["job_id"],
        event=_first_event(row["data"]),
        submitted_at=decode_meta(row["meta"]).occurred_at,
    )


def _first_event(data: bytes) -> JobSubmitted:
    event = decode_job_event(data)
    if not isinstance(event, JobSubmitted):
        raise ValueError("a job's stream does not begin with its submission")
    return event


async def replay_or_generation(
    parts: Parts, account_id: UUID, key: Key | None, request_sha256: str
) -> Settled | int:
    """What the key says before anything is done: the answer to replay, or the generation to use.

    Raises ApiError 409 ``idempotency_conflict``.
    """
    if key is None:
        return 1
    earlier = await find_earlier(parts.pool, account_id, key)
    match standing(earlier, request_sha256, parts.now()):
        case Fresh(generation):
            return generation
        case Conflict():
            raise conflict()
        case Earlier() as known:
            return Settled(
                job_id=known.job_id,
                account_id=account_id,
                event=known.event,
                at=known.submitted_at,
                replayed=True,
            )
        case other:
            assert_never(other)


async def submit(parts: Parts, order: Order, generation: int) -> Settled:
    """Reserve and append. Durable when it returns.

    Raises ApiError 402 or 409, Unanswered, or LogUnavailable: then the job may or may not exist,
    and a repetition with the same key finds out.
    """
    job_id = parts.new_id()
    if order.key is not None:
        job_id = job_id_of(order.account_id, order.key, generation)
    current_span().set(job_id=str(job_id))
    event = submission(order, await _reserve(parts, order, job_id), output_model_id=parts.new_id())
    context = Context(now=parts.now(), new_id=parts.new_id, traceparent=current_traceparent())
    append = _append(order, event, context, job_id=job_id, generation=generation)
    try:
        try:
            await parts.log.append(append)
        except LogUnavailable:
            # It may have been written: if so, the second try meets its own event.
            await parts.log.append(append)
    except (VersionConflict, KeyTaken):
        return await _winner(parts, order, job_id)
    logger.info("job submitted", job_id=str(job_id), price_cents=event.price_cents)
    return Settled(
        job_id=job_id, account_id=order.account_id, event=event, at=context.now, replayed=False
    )


async def _reserve(parts: Parts, order: Order, job_id: UUID) -> Reserved:
    answer = await ask(parts.broker, RESERVE, Reserve(job_id=job_id, quote=quote_of(order)))
    match answer:
        case Reserved():
            return answer
        case InsufficientBalance():
            raise insufficient(answer)
        case PaymentRequired(reason=reason):
            raise paused(reason)
        case ReservedDifferently():
            raise conflict()
        case _:
            assert_never(answer)


def _append(
    order: Order, event: JobSubmitted, context: Context, *, job_id: UUID, generation: int
) -> Append:
    state = submitted(
        event,
        job_id=job_id,
        account_id=order.account_id,
        at=context.now,
        traceparent=context.traceparent,
    )
    row = None
    if order.key is not None:
        row = IdempotencyRow(
            account_id=order.account_id,
            scope=order.key.scope,
            key=order.key.text,
            request_sha256=order.request_sha256,
            job_id=job_id,
            generation=generation,
            created_at=context.now,
            expires_at=context.now + order.key.life if order.key.life else None,
        )
    return Append(
        records=records_after(
            Head(stream=job_stream(job_id)),
            [event],
            context,
            job_id=job_id,
            account_id=order.account_id,
        ),
        job=row_of(state),
        idempotency=row,
    )


async def _winner(parts: Parts, order: Order, job_id: UUID) -> Settled:
    """Somebody's append came first: another request with this key, or our own first try."""
    if order.key is not None:
        settled = await replay_or_generation(
            parts, order.account_id, order.key, order.request_sha256
        )
        if isinstance(settled, Settled):
            return settled
    row = await parts.pool.fetchrow(
        "SELECT data, meta FROM log.event WHERE stream = $1 AND version = 1", job_stream(job_id)
    )
    if row is None or order.key is not None:
        raise ApiError(
            "idempotency_in_progress",
            "Another request with this Idempotency-Key is being worked on; send it again shortly.",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    return Settled(
        job_id=job_id,
        account_id=order.account_id,
        event=_first_event(row["data"]),
        at=decode_meta(row["meta"]).occurred_at,
        replayed=False,
    )


def insufficient(answer: InsufficientBalance) -> ApiError:
    """The balance does not hold the price."""
    price, balance = answer.price.price_cents, answer.balance_cents
    return ApiError(
        "insufficient_balance",
        f"This costs {price} cents and the balance is {balance} cents;"
        " top up the account and send the request again.",
        details={"price_cents": price, "balance_cents": balance},
    )


PAUSED = {
    "payment_declined": "A charge to the account's card was declined; save another card"
    " (POST /v1/jobs/setup-card), and it is tried again at once.",
    "payment_action_required": "The bank wants the card's owner to approve a charge: approve it at"
    " details.action_url of that job's download, or save another card (POST /v1/jobs/setup-card).",
    "payment_disputed": "A charge was disputed with the bank; the account goes on when the dispute"
    " is settled.",
}
"""What to do next, by why an account is paused."""


def paused(reason: str) -> ApiError:
    """What the account owes comes first."""
    message = PAUSED.get(reason, f"The account is paused ({reason}); ask the operator.")
    return ApiError("payment_required", message, details={"reason": reason})


def conflict() -> ApiError:
    """The key stands for other parameters."""
    return ApiError(
        "idempotency_conflict",
        "This idempotency key was already used with different parameters; use a new one.",
    )
