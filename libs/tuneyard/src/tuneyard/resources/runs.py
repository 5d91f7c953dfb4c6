"""Runs: one request uploads, validates, prices and queues a fine-tune, paid from the balance."""

from os import PathLike
from pathlib import Path

import msgspec

from tuneyard._call import Call, decoded
from tuneyard._download import AT_ONCE, Link, Links, Paths, fetch_all
from tuneyard._effects import Flow, Response
from tuneyard._form import File, Form, Progress, source_of
from tuneyard._method import M, R, Raw, Resource, endpoint, listing, procedure
from tuneyard.types import Artifacts, Page, RunCreated, RunDetail, RunEnvelope, RunItem

_envelope = msgspec.json.Decoder(RunEnvelope)


def _run(response: Response) -> RunDetail:
    return decoded(_envelope, response).run


class Runs(Resource[M, R]):
    @property
    def with_raw_response(self) -> "Runs[M, Raw]":
        return Runs(self._options, self._driver, raw=True)

    @endpoint("POST", "/api/v1/runs", key="header")
    def create(
        self,
        *,
        dataset: File,
        model_id: str,
        model_terms_accepted: bool,
        data_policy_accepted: bool,
        label: str | None = None,
        priority_processing: bool = False,
        filename: str | None = None,
        progress: Progress | None = None,
        idempotency_key: str | None = None,
    ) -> Call[RunCreated]:
        """Submit a fine-tune of a model (its slug) on a data set: a path, bytes, or a file open for
        reading. ``progress(done, total)`` is called with bytes. The price is taken from the balance
        at once. Raises ValidationError, whose ``details`` name each bad line, and
        InsufficientBalanceError."""
        fields = [
            ("model_id", model_id),
            ("model_terms_accepted", str(model_terms_accepted).lower()),
            ("data_policy_accepted", str(data_policy_accepted).lower()),
            ("priority_processing", str(priority_processing).lower()),
        ]
        if label is not None:
            fields.append(("label", label))
        form = Form(fields, "dataset", source_of(dataset), filename=filename, progress=progress)
        return Call(form=form, key=idempotency_key)

    @listing("GET", "/api/v1/runs")
    def list(self, *, limit: int | None = None, cursor: str | None = None) -> Call[Page[RunItem]]:
        """Newest first. ``limit``: in one page."""
        return Call(query={"limit": limit, "cursor": cursor})

    @endpoint("GET", "/api/v1/runs/{run_id}")
    def get(self, *, run_id: str) -> Call[RunDetail]:
        """A run. It is a job as well: ``jobs.wait(job_id=run_id)`` waits for its end."""
        return Call(path={"run_id": run_id}, read=_run)

    @endpoint("POST", "/api/v1/runs/{run_id}/artifacts/download", repeatable=True)
    def download_links(self, *, run_id: str) -> Call[Artifacts]:
        """A link to what a completed run has made, which works for half an hour."""
        return Call(path={"run_id": run_id})

    @procedure
    def download(
        self, *, run_id: str, dir: str | PathLike[str], progress: Progress | None = None
    ) -> Flow[Paths]:
        """Fetch what a completed run has made into a folder: resumed where it broke off, and only
        taken if its SHA-256 fits. Raises DownloadError, NotFoundError, PaymentRequiredError."""
        options = self._options

        def ask() -> Flow[Links]:
            found = yield from Runs.download_links.flow(options, run_id=run_id)
            return [
                Link(each.filename, each.url, each.size_bytes, each.sha256)
                for each in found.artifacts
            ]

        return fetch_all(options, ask, Path(dir), progress=progress, at_once=AT_ONCE)
