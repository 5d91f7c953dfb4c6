"""Jobs that were submitted: see them, end them, fetch what they made."""

from pathlib import Path
from typing import Any

from tuneyard.cli.context import Context
from tuneyard.cli.curve import curve
from tuneyard.cli.datasets import progress_of
from tuneyard.cli.exits import OK
from tuneyard.cli.options import (
    Commands,
    add_idempotency_key,
    add_job,
    add_page,
    add_yes,
    command,
)
from tuneyard.cli.results import result_of
from tuneyard.cli.screen import MOST_COLUMNS
from tuneyard.cli.story import EVALUATION
from tuneyard.cli.text import moment, money, pairs, table
from tuneyard.types import Job, MetricPoint, Page, StorageExtension

CURVE_LINES = 12
NEWEST = -1


def add(commands: Commands) -> None:
    add_job(command(commands, "status", status, "show a job"))
    add_page(command(commands, "ls", list_jobs, "list the jobs"))
    add_job(command(commands, "result", result, "show what came of a completed job"))
    add_job(command(commands, "cancel", cancel, "end a job, which costs what was done"))
    one = command(commands, "download", download, "fetch a completed job's files, checked")
    add_job(one)
    one.add_argument("--dir", type=Path, metavar="DIR", help="left out: a new folder, by its id")
    one.add_argument(
        "--name", action="append", dest="names", metavar="FILE", help="only this; may be repeated"
    )
    one.add_argument(
        "--checkpoint",
        nargs="?",
        type=int,
        const=NEWEST,
        metavar="STEP",
        help="a checkpoint instead: the newest, or the one of this step",
    )
    one = command(commands, "extend", extend, "buy more days for a completed job's files")
    add_job(one)
    add_idempotency_key(one)
    add_yes(one)


def status(context: Context, *, job_id: str) -> int:
    with context.client() as client:
        context.reply(client.jobs.with_raw_response.get(job_id=job_id), _job)
    return OK


def _job(job: Job) -> object:
    chosen = {
        name: getattr(job.hyperparams, name)
        for name in job.hyperparams.__struct_fields__
        if getattr(job.hyperparams, name) is not None
    }
    charge = None if job.charge_cents is None else money(job.charge_cents, job.currency)
    asked = ", to be cancelled" if job.cancel_requested and job.finished_at is None else ""
    return pairs(
        [
            ("id", job.id),
            ("status", job.status + asked),
            ("error", f"{job.error.code}: {job.error.message}" if job.error else None),
            ("type", job.type),
            ("model", job.base_model.slug),
            ("data set", job.dataset_id),
            ("label", job.label),
            ("output", job.output_name),
            ("output model", job.output_model_id),
            ("tokens", f"{job.tokens_processed:,} of {job.tokens_planned:,}"),
            ("taken up again", job.retries or None),
            ("price", money(job.price_cents, job.currency)),
            ("charged", charge),
            ("created", moment(job.created_at)),
            ("started", moment(job.started_at)),
            ("finished", moment(job.finished_at)),
            ("files until", moment(job.artifacts_expires_at)),
            ("with", " ".join(f"{name}={value}" for name, value in chosen.items())),
        ]
    )


def list_jobs(context: Context, *, limit: int | None, cursor: str | None) -> int:
    with context.client() as client:
        context.page(client.jobs.with_raw_response.list(limit=limit, cursor=cursor), _jobs)
    return OK


def _jobs(page: Page[Job]) -> object:
    return table(
        ("job", "type", "model", "status", "done", "price", "created", "label"),
        [
            (
                each.id,
                each.type,
                each.base_model.slug,
                each.status,
                _done(each),
                money(each.price_cents, each.currency),
                moment(each.created_at),
                each.label or each.output_name or "",
            )
            for each in page.data
        ],
        right="done price",
    )


def _done(job: Job) -> str:
    """A job that has completed may have needed fewer tokens than were planned."""
    share = job.tokens_processed / max(1, job.tokens_planned)
    return f"{1.0 if job.status == 'completed' else share:.0%}"


def result(context: Context, *, job_id: str) -> int:
    with context.client() as client:
        context.reply(client.jobs.with_raw_response.result(job_id=job_id), result_of)
        if not context.json and context.world.stdout.isatty():
            points = client.jobs.metrics(job_id=job_id).points
            width = min(context.out.width, MOST_COLUMNS)
            drawn = curve(
                _losses(points, evaluated=False),
                _losses(points, evaluated=True),
                width=width,
                height=CURVE_LINES,
            )
            context.show(drawn)
    return OK


def _losses(points: list[MetricPoint], *, evaluated: bool) -> list[tuple[int, float]]:
    return [(each.step, each.loss) for each in points if (each.phase == EVALUATION) == evaluated]


def cancel(context: Context, *, job_id: str) -> int:
    with context.client() as client:
        context.reply(client.jobs.with_raw_response.cancel(job_id=job_id), _cancelled)
    return OK


def _cancelled(job: Job) -> str:
    if job.status == "cancelled":
        return f"job {job.id} is cancelled"
    return f"job {job.id} will be cancelled; it is {job.status} until then"


def download(
    context: Context,
    *,
    job_id: str,
    dir: Path | None,
    names: list[str] | None,
    checkpoint: int | None,
) -> int:
    folder = dir or Path(job_id)
    with context.client() as client, progress_of(context, f"fetching {job_id}") as progress:
        if checkpoint is not None:
            step = None if checkpoint == NEWEST else checkpoint
            paths = [
                client.jobs.download_checkpoint(
                    job_id=job_id, dir=folder, step=step, progress=progress
                )
            ]
        else:
            paths = client.jobs.download(job_id=job_id, dir=folder, names=names, progress=progress)
    said: dict[str, Any] = {
        "job_id": job_id,
        "dir": str(folder),
        "files": [{"path": str(path), "size_bytes": path.stat().st_size} for path in paths],
    }
    context.answer(said, lambda _: "\n".join(map(str, paths)))
    files = "1 file" if len(paths) == 1 else f"{len(paths)} files, each"
    context.note(f"{files} as its SHA-256 says, in {folder}")
    return OK


def extend(context: Context, *, job_id: str, idempotency_key: str | None, yes: bool) -> int:
    context.confirm(f"Pay for more days of the files of job {job_id}?", yes=yes)
    with context.client() as client:
        context.reply(
            client.jobs.with_raw_response.extend_storage(
                job_id=job_id, idempotency_key=idempotency_key
            ),
            _extension,
        )
    return OK


def _extension(of: StorageExtension) -> str:
    left = money(of.balance_after_cents, of.currency)
    return (
        f"{of.days} days more, until {moment(of.artifacts_expires_at)},"
        f" for {money(of.price_cents, of.currency)}, which leaves {left}"
    )
