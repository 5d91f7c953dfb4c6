"""What became of a job: its timeline, its result, and the files it made."""

from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from litestar.params import FromPath
from msgspec import Meta, Struct

from libs.bus.rpc import ask
from libs.contracts.artifact_rpc import (
    CHECKPOINTS,
    DOWNLOADS,
    CheckpointLink,
    DownloadLink,
    GetCheckpoints,
    GetDownloads,
    NotPublished,
)
from libs.eventlog.read import timeline
from services.gateway.http.errors import not_found
from services.gateway.http.operation import operation
from services.gateway.http.pages import MAX_LIMIT, Page
from services.gateway.http.replies import Reply, reply
from services.gateway.job_rows import own_job
from services.gateway.parts import Asked, parts_of
from services.gateway.reading import read_query
from services.gateway.timeline import Moment, moment
from services.gateway.views import ResultView, downloadable, result_view
from services.gateway.withheld import require_paid

CURSOR_HEADER = "X-Next-Cursor"


class EventsQuery(Struct, frozen=True, kw_only=True):
    """Without a limit the whole timeline comes; a job has some dozens of events."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="Events in an answer.")] | None = (
        None
    )
    cursor: (
        Annotated[
            str,
            Meta(pattern="^[0-9]{1,18}$", description="An earlier answer's X-Next-Cursor header."),
        ]
        | None
    ) = None


class JobDownload(Struct, frozen=True, kw_only=True):
    """``expires_in`` in seconds, for every link."""

    job_id: UUID
    expires_in: int
    files: list[DownloadLink]


@operation(
    "GET",
    "/v1/jobs/{job_id}/events",
    id="listJobEvents",
    tag="Jobs",
    scope="read",
    answer=list[Moment],
    query=EventsQuery,
    headers=("Link", CURSOR_HEADER),
)
async def job_events(request: Asked, job_id: FromPath[str]) -> Reply:
    """Get a job's timeline, oldest first.

    The answer is a bare array. With a limit, the headers Link (rel="next") and X-Next-Cursor say
    where the next part begins; without them there is no next part.
    """
    query = read_query(request, EventsQuery)
    job = await own_job(request, job_id)
    entries = await timeline(
        parts_of(request).pool,
        job.id,
        after=int(query.cursor or 0),
        limit=None if query.limit is None else query.limit + 1,
    )
    headers = None
    if query.limit is not None and len(entries) > query.limit:
        entries = entries[: query.limit]
        cursor = str(entries[-1].position)
        following = urlencode({"limit": query.limit, "cursor": cursor})
        headers = {
            "Link": f'</v1/jobs/{job.id}/events?{following}>; rel="next"',
            CURSOR_HEADER: cursor,
        }
    return reply([moment(entry) for entry in entries], headers=headers)


@operation(
    "GET",
    "/v1/jobs/{job_id}/result",
    id="getJobResult",
    tag="Jobs",
    scope="read",
    answer=ResultView,
)
async def job_result(request: Asked, job_id: FromPath[str]) -> Reply:
    """Get a completed job's headline result.

    404 until there is one.
    """
    result = result_view(await own_job(request, job_id))
    if result is None:
        raise not_found("result: the job has not completed")
    return reply(result)


@operation(
    "GET",
    "/v1/jobs/{job_id}/download",
    id="downloadJob",
    tag="Jobs",
    scope="read",
    answer=JobDownload,
    refuses=("payment_required",),
)
async def download_job(request: Asked, job_id: FromPath[str]) -> Reply:
    """Get links to the files of a completed job.

    The links work for an hour; another call gives others, for as long as the files are kept. 404
    before the job has completed and after they have expired.
    """
    parts = parts_of(request)
    job = await own_job(request, job_id)
    if not downloadable(job, parts.now()):
        raise not_found("download: the job has not completed, or its files are no longer kept")
    await require_paid(parts, job)
    found = await ask(parts.broker, DOWNLOADS, GetDownloads(job_id=job.id, archive=False))
    if isinstance(found, NotPublished) or not found.links:
        raise not_found("download")
    return reply(
        JobDownload(
            job_id=job.id,
            expires_in=min(link.expires_in for link in found.links),
            files=list(found.links),
        )
    )


@operation(
    "GET",
    "/v1/jobs/{job_id}/checkpoints",
    id="listJobCheckpoints",
    tag="Jobs",
    scope="read",
    answer=Page[CheckpointLink],
    refuses=("payment_required",),
)
async def job_checkpoints(request: Asked, job_id: FromPath[str]) -> Reply:
    """List a job's checkpoints, newest first, with a link to each.

    The last three are kept: of a completed job as long as its files, of another for a week after
    its end. The links work for an hour; of a running job, until three newer ones are there. A
    fine-tune can begin with one (start_from). The list is always whole.
    """
    parts = parts_of(request)
    job = await own_job(request, job_id)
    await require_paid(parts, job)
    found = await ask(parts.broker, CHECKPOINTS, GetCheckpoints(job_id=job.id))
    return reply(Page(list(found.links), None, False))


ROUTES = (job_events, job_result, download_job, job_checkpoints)
