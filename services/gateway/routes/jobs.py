"""The Jobs API: price, submit, list and cancel jobs."""

from datetime import datetime, timedelta
from functools import lru_cache
from uuid import UUID

import msgspec
from litestar.params import FromPath
from msgspec import Struct

from libs.bus.rpc import ask
from libs.contracts.base import Cents, Count, JobType
from libs.contracts.billing_rpc import QUOTE
from libs.contracts.scheduler_rpc import CANCEL, AlreadyEnded, CancelJob
from libs.jobstate.hyperparams import JobHyperparams, hyperparams_view
from libs.jobstate.state import decode_state, submitted
from libs.jobstate.view import JobView, ModelName, job_view
from services.gateway.duration import decode_past, expected_seconds
from services.gateway.http.errors import ApiError
from services.gateway.http.operation import operation
from services.gateway.http.pages import Page, PageQuery, place_of
from services.gateway.http.replies import Reply, reply
from services.gateway.job_requests import (
    EstimateRequest,
    JobRequest,
    key_of,
    model_name,
    request_digest,
)
from services.gateway.job_rows import job_page, own_job, own_state
from services.gateway.model import quote_of
from services.gateway.ordering import ordered
from services.gateway.parts import Asked, caller_of, parts_of
from services.gateway.reading import read_json, read_query
from services.gateway.submission import Settled, replay_or_generation, submit

REMEMBERED = 4096  # jobs of which the JSON is at hand, of some 2 KB each with their state
ESTIMATE_LIFE = timedelta(hours=1)  # long enough to decide; what is looked at later is asked anew

# Every account's: a job's speed is that of the platform, and says nothing of whose it was.
SPEED_SQL = """
SELECT state FROM log.job WHERE status = 'completed' ORDER BY created_at DESC LIMIT 100
"""

decode_job_request: msgspec.json.Decoder[JobRequest] = msgspec.json.Decoder(JobRequest)
decode_estimate: msgspec.json.Decoder[EstimateRequest] = msgspec.json.Decoder(EstimateRequest)


class Estimate(Struct, frozen=True, kw_only=True):
    """What a job would cost. A submission of the same costs the same, and so does the job once it
    has completed; one that is cancelled, or ends early because it gets no better (``patience``),
    costs the share of ``tokens_planned`` that was processed, rounded up to a cent.

    ``parts`` add up to ``price_cents``. The part ``tokens`` is the product of all ``factors``, over
    10^17 (a million tokens, a billion parameters, a hundred percent), rounded up to a cent.

    ``expected_duration_seconds`` counts from the job's start to its end, and not its wait in the
    queue; it is what recent jobs of this type took for so many tokens and parameters, on the same
    model if there were any; null when there were none. It is an expectation, and promises nothing.

    ``valid_until`` is how long to rely on this answer; then ask again. The price follows from the
    operator's price list and, for priority, from the account's subscription: should one of them
    change before, what the submission answers is what counts.
    """

    type: JobType
    price_cents: Cents
    currency: str
    parts: dict[str, Cents]
    factors: dict[str, Count]
    tokens_planned: int
    steps_total: int
    hyperparams: JobHyperparams
    recommended: list[str]
    base_model: ModelName
    dataset_id: UUID | None
    priority_processing: bool
    expected_duration_seconds: Count | None
    valid_until: datetime


@operation(
    "POST",
    "/v1/jobs/estimate",
    id="estimateJob",
    tag="Jobs",
    scope="read",
    answer=Estimate,
    body=EstimateRequest,
    refuses=("model_not_available", "not_found"),
)
async def estimate_job(request: Asked) -> Reply:
    """Preview a job's price.

    Takes the body of a submission, with or without its idempotency key, and changes nothing.
    """
    parts = parts_of(request)
    wanted = await read_json(request, decode_estimate)
    order = await ordered(parts, caller_of(request).account_id, wanted, None)
    price = await ask(parts.broker, QUOTE, quote_of(order))
    past = [decode_past(row["state"]) for row in await parts.pool.fetch(SPEED_SQL)]
    return reply(
        Estimate(
            type=order.job_type,
            price_cents=price.price_cents,
            currency=price.currency,
            parts=price.parts,
            factors=price.factors,
            tokens_planned=order.tokens,
            steps_total=order.params.planned_steps,
            hyperparams=hyperparams_view(order.params),
            recommended=list(order.recommended),
            base_model=ModelName(order.model.id, order.model.slug),
            dataset_id=order.dataset.id if order.dataset else None,
            priority_processing=order.priority,
            expected_duration_seconds=expected_seconds(
                order.job_type, order.model, order.tokens, past
            ),
            valid_until=parts.now() + ESTIMATE_LIFE,
        )
    )


@operation(
    "POST",
    "/v1/jobs",
    id="createJob",
    tag="Jobs",
    scope="write",
    answer=JobView,
    status=201,
    body=JobRequest,
    refuses=(
        *("model_not_available", "not_found", "insufficient_balance", "payment_required"),
        *("idempotency_conflict", "idempotency_in_progress"),
    ),
    links={"job_id": "/id"},
)
async def submit_job(request: Asked) -> Reply:
    """Submit a job.

    Three types: train grows a model, finetune adapts it, contract shrinks it. Its price is reserved
    now and taken when it has completed. The same idempotency_key always answers with the same job.
    """
    parts, account_id = parts_of(request), caller_of(request).account_id
    wanted = await read_json(request, decode_job_request)
    model_name(wanted)  # before the key is looked up: what can't be done is not remembered
    key = key_of(wanted)
    found = await replay_or_generation(parts, account_id, key, request_digest(wanted))
    if isinstance(found, Settled):
        return created(found)
    order = await ordered(parts, account_id, wanted, key)
    return created(await submit(parts, order, found))


def created(settled: Settled) -> Reply:
    """The job as it was when it was submitted: from the stored event, so always the same."""
    state = submitted(
        settled.event,
        job_id=settled.job_id,
        account_id=settled.account_id,
        at=settled.at,
        traceparent=None,
    )
    return reply(
        job_view(state),
        status=201,
        headers={"Idempotency-Replayed": "true"} if settled.replayed else None,
    )


@operation(
    "GET",
    "/v1/jobs",
    id="listJobs",
    tag="Jobs",
    scope="read",
    answer=Page[JobView],
    query=PageQuery,
    links={"job_id": "/data/0/id"},
)
async def list_jobs(request: Asked) -> Reply:
    """List jobs, newest first; the runs of the Runs API are among them."""
    query = read_query(request, PageQuery)
    found = await job_page(
        parts_of(request).pool,
        caller_of(request).account_id,
        place_of(query.cursor),
        query.limit,
    )
    return reply(Page([job_view(job) for job in found.data], found.next_cursor, found.has_more))


@operation(
    "GET",
    "/v1/jobs/{job_id}",
    id="getJob",
    tag="Jobs",
    scope="read",
    answer=JobView,
)
async def one_job(request: Asked, job_id: FromPath[str]) -> Reply:
    """Get a job."""
    return Reply(200, shown(await own_state(request, job_id)))


@lru_cache(maxsize=REMEMBERED)
def shown(state: bytes) -> bytes:
    """A job's JSON. It follows from the stored state alone, and most reads are of clients that ask
    again for a job that has not changed since."""
    return msgspec.json.encode(job_view(decode_state(state)))


@operation(
    "POST",
    "/v1/jobs/{job_id}/cancel",
    id="cancelJob",
    tag="Jobs",
    scope="write",
    answer=JobView,
    refuses=("job_already_ended",),
)
async def cancel_job(request: Asked, job_id: FromPath[str]) -> Reply:
    """Cancel a job.

    A queued one ends at once and costs nothing. A running one ends within seconds and costs the
    share that was done.
    """
    job = await own_job(request, job_id)
    answer = await ask(parts_of(request).broker, CANCEL, CancelJob(job_id=job.id))
    if isinstance(answer, AlreadyEnded) and answer.status != "cancelled":
        raise ApiError(
            "job_already_ended",
            f"The job is {answer.status} already; there is nothing left to cancel.",
        )
    return reply(job_view(await own_job(request, job_id)))


ROUTES = (estimate_job, submit_job, list_jobs, one_job, cancel_job)
