"""Jobs: grow, tune and shrink models, step by step."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import msgspec

from tuneyard._call import Call, decoded
from tuneyard._download import AT_ONCE, Link, Links, Paths, fetch_all
from tuneyard._effects import Flow, Response
from tuneyard._form import Progress
from tuneyard._method import M, R, Raw, Resource, endpoint, listing, procedure, streaming
from tuneyard._wait import POLL, wait_for
from tuneyard.types import (
    CheckpointLink,
    ContractHyperparams,
    Estimate,
    FinetuneHyperparams,
    Job,
    JobDownload,
    LogPage,
    MetricPage,
    Moment,
    Page,
    Result,
    StartFrom,
    StorageExtension,
    StreamEvent,
    TrainHyperparams,
)

EventName = Literal["state", "metrics", "log", "done"]
JobType = Literal["train", "finetune", "contract"]
Hyperparams = FinetuneHyperparams | TrainHyperparams | ContractHyperparams | Mapping[str, Any]

EVENTS = 100  # the most that one page may have

_moments = msgspec.json.Decoder(list[Moment])


def _timeline(response: Response) -> Page[Moment]:
    """The array is bare; what follows stands in a header."""
    following = response.headers.get("x-next-cursor")
    return Page(
        data=decoded(_moments, response), next_cursor=following, has_more=following is not None
    )


class Jobs(Resource[M, R]):
    @property
    def with_raw_response(self) -> "Jobs[M, Raw]":
        return Jobs(self._options, self._driver, raw=True)

    @endpoint("POST", "/v1/jobs", key="body")
    def create(
        self,
        *,
        type: JobType,
        base_model_id: str | None = None,
        source_model_id: str | None = None,
        dataset_id: str | None = None,
        validation_dataset_id: str | None = None,
        start_from: StartFrom | Mapping[str, Any] | None = None,
        hyperparams: Hyperparams | None = None,
        label: str | None = None,
        priority_processing: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Call[Job]:
        """Submit a job: ``train`` grows a model, ``finetune`` adapts it, ``contract`` shrinks it
        (and needs no data set). The model is named by its UUID or its slug, as ``base_model_id`` or
        ``source_model_id``, which mean the same. The same ``idempotency_key`` is always the same
        job; left out, this call has one of its own. Raises InsufficientBalanceError,
        PaymentRequiredError, ModelNotAvailableError, IdempotencyConflictError."""
        return Call(
            body=_job(
                type=type,
                base_model_id=base_model_id,
                source_model_id=source_model_id,
                dataset_id=dataset_id,
                validation_dataset_id=validation_dataset_id,
                start_from=start_from,
                hyperparams=hyperparams,
                label=label,
                priority_processing=priority_processing,
            ),
            key=idempotency_key,
        )

    @endpoint("POST", "/v1/jobs/estimate", repeatable=True)
    def estimate(
        self,
        *,
        type: JobType,
        base_model_id: str | None = None,
        source_model_id: str | None = None,
        dataset_id: str | None = None,
        validation_dataset_id: str | None = None,
        start_from: StartFrom | Mapping[str, Any] | None = None,
        hyperparams: Hyperparams | None = None,
        label: str | None = None,
        priority_processing: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Call[Estimate]:
        """What a job would cost; takes what `create` takes, and changes nothing."""
        return Call(
            body=_job(
                type=type,
                base_model_id=base_model_id,
                source_model_id=source_model_id,
                dataset_id=dataset_id,
                validation_dataset_id=validation_dataset_id,
                start_from=start_from,
                hyperparams=hyperparams,
                label=label,
                priority_processing=priority_processing,
                idempotency_key=idempotency_key,
            )
        )

    @listing("GET", "/v1/jobs")
    def list(self, *, limit: int | None = None, cursor: str | None = None) -> Call[Page[Job]]:
        """Newest first; runs are among them. ``limit``: in one page."""
        return Call(query={"limit": limit, "cursor": cursor})

    @endpoint("GET", "/v1/jobs/{job_id}")
    def get(self, *, job_id: str) -> Call[Job]:
        """A job."""
        return Call(path={"job_id": job_id})

    @endpoint("POST", "/v1/jobs/{job_id}/cancel", repeatable=True)
    def cancel(self, *, job_id: str) -> Call[Job]:
        """A queued job ends at once and costs nothing; a running one ends within seconds and costs
        the share that was done. Raises ConflictError for one that has ended otherwise."""
        return Call(path={"job_id": job_id})

    @listing("GET", "/v1/jobs/{job_id}/events")
    def events(
        self, *, job_id: str, limit: int | None = None, cursor: str | None = None
    ) -> Call[Page[Moment]]:
        """A job's timeline, oldest first. ``limit``: in one page."""
        return Call(
            path={"job_id": job_id},
            query={"limit": limit or EVENTS, "cursor": cursor},
            read=_timeline,
        )

    @endpoint("GET", "/v1/jobs/{job_id}/metrics")
    def metrics(self, *, job_id: str, since_step: int | None = None) -> Call[MetricPage]:
        """Points strictly newer than ``since_step``; pass ``latest_step`` back for the next."""
        return Call(path={"job_id": job_id}, query={"since_step": since_step})

    @endpoint("GET", "/v1/jobs/{job_id}/logs")
    def logs(self, *, job_id: str, since: int | None = None) -> Call[LogPage]:
        """The last lines strictly newer than ``since``; pass ``latest_seq`` back for the next."""
        return Call(path={"job_id": job_id}, query={"since": since})

    @endpoint("GET", "/v1/jobs/{job_id}/result")
    def result(self, *, job_id: str) -> Call[Result]:
        """A completed job's headline result. Raises NotFoundError until there is one."""
        return Call(path={"job_id": job_id})

    @endpoint("GET", "/v1/jobs/{job_id}/download")
    def download_links(self, *, job_id: str) -> Call[JobDownload]:
        """Links to a completed job's files, which work for an hour."""
        return Call(path={"job_id": job_id})

    @listing("GET", "/v1/jobs/{job_id}/checkpoints")
    def checkpoints(self, *, job_id: str) -> Call[Page[CheckpointLink]]:
        """A job's last checkpoints, newest first, with links that work for an hour."""
        return Call(path={"job_id": job_id})

    @endpoint("POST", "/v1/jobs/{job_id}/extend-storage", key="header")
    def extend_storage(
        self, *, job_id: str, idempotency_key: str | None = None
    ) -> Call[StorageExtension]:
        """Buy more days for a completed job's files."""
        return Call(path={"job_id": job_id}, key=idempotency_key)

    @streaming("GET", "/v1/jobs/{job_id}/stream", to_done=True)
    def stream(self, *, job_id: str, last_event_id: str | None = None) -> Call[StreamEvent]:
        """A job's story from its beginning, or behind ``last_event_id``, as it happens: its states,
        metrics and lines, and ``done``, which is the last. It goes on by itself where a connection
        broke off. Raises APIConnectionError when the platform stays away for about a minute."""
        return Call(path={"job_id": job_id}, last_event_id=last_event_id)

    @streaming("GET", "/v1/stream", to_done=False)
    def stream_all(
        self, *, types: Sequence[EventName] | None = None, last_event_id: str | None = None
    ) -> Call[StreamEvent]:
        """What all jobs of the account say, from now on, or behind ``last_event_id``, and without
        an end. ``types``: only these."""
        return Call(query={"types": types}, last_event_id=last_event_id)

    @procedure
    def download(
        self,
        *,
        job_id: str,
        dir: str | PathLike[str],
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
        at_once: int = AT_ONCE,
    ) -> Flow[Paths]:
        """Fetch a completed job's files, or those of them that are named, into a folder: several at
        once, each resumed where it broke off, and only taken if its SHA-256 fits.
        ``progress(done, total)`` is called with bytes, from threads. Raises DownloadError,
        NotFoundError, PaymentRequiredError."""
        options = self._options

        def ask() -> Flow[Links]:
            found = yield from Jobs.download_links.flow(options, job_id=job_id)
            return [Link(each.name, each.url, each.size_bytes, each.sha256) for each in found.files]

        return fetch_all(
            options,
            ask,
            Path(dir),
            progress=progress,
            at_once=at_once,
            wanted=lambda link: names is None or link.name in names,
        )

    @procedure
    def download_checkpoint(
        self,
        *,
        job_id: str,
        dir: str | PathLike[str],
        step: int | None = None,
        progress: Progress | None = None,
    ) -> Flow[Path]:
        """Fetch a checkpoint, a tar, into a folder: the newest, or the one of this ``step``. Raises
        DownloadError, NotFoundError, PaymentRequiredError."""
        options = self._options

        def ask() -> Flow[Links]:
            page = yield from Jobs.checkpoints.endpoint.flow(options, job_id=job_id)
            found = [each for each in page.data if step in (None, each.step)][:1]
            return [
                Link(f"checkpoint-{each.step}.tar", each.url, each.size_bytes, each.sha256)
                for each in found
            ]

        paths = yield from fetch_all(options, ask, Path(dir), progress=progress, at_once=1)
        return paths[0]

    @procedure
    def wait(self, *, job_id: str, timeout: float | None = None, poll: float = POLL) -> Flow[Job]:
        """Wait until a job has ended, and return it: its ``status`` is ``completed``, ``failed`` or
        ``cancelled``. Asks every ``poll`` seconds, and goes on when the platform is away for a
        while. Raises WaitTimeoutError after ``timeout`` seconds; None: never."""
        return wait_for(
            self._options,
            lambda: Jobs.get.flow(self._options, job_id=job_id),
            timeout=timeout,
            poll=poll,
        )


def _job(**fields: Any) -> dict[str, Any]:
    return fields
