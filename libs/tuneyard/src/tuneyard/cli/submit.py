"""Submit jobs of every type, and runs; ask what a job would cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneyard.cli import watch
from tuneyard.cli.context import Context
from tuneyard.cli.datasets import dataset_id_of, progress_of
from tuneyard.cli.exits import OK, CliError
from tuneyard.cli.hyperparams import JobType, add_hyperparams, hyperparams_of
from tuneyard.cli.options import Commands, Parser, add_idempotency_key, add_yes, command, group
from tuneyard.cli.text import lasting, money, pairs
from tuneyard.types import Estimate, RunCreated, StartFrom

if TYPE_CHECKING:
    from tuneyard import Tuneyard

TYPES: dict[JobType, str] = {
    "finetune": "adapt a model to a data set",
    "train": "grow a model on a data set",
    "contract": "shrink a model",
}


def add(commands: Commands) -> None:
    estimates = group(commands, "estimate", "say what a job would cost; nothing is changed")
    submits = group(commands, "submit", "submit a job or a run")
    for job_type, help in TYPES.items():
        _add_job(command(estimates, job_type, estimate, help), job_type)
        one = command(submits, job_type, submit, help)
        _add_job(one, job_type)
        one.add_argument("--estimate", action="store_true", help="only say what it would cost")
        _add_sending(one)
    one = command(submits, "run", submit_run, "fine-tune in one request, paid at once")
    one.add_argument("--model", required=True, metavar="MODEL", help="its slug")
    one.add_argument("--dataset", required=True, type=Path, metavar="FILE", help="JSON lines")
    one.add_argument("--label", help="for people")
    one.add_argument("--priority", action="store_true", help="before others; may cost more")
    one.add_argument("--accept-model-terms", action="store_true", help="you accept the model's")
    one.add_argument(
        "--accept-data-policy", action="store_true", help="you may use this data for training"
    )
    _add_sending(one)


def _add_job(parser: Parser, job_type: JobType) -> None:
    parser.set_defaults(type=job_type)
    parser.add_argument("--model", required=True, metavar="MODEL", help="its slug or its id")
    if job_type == "contract":
        parser.add_argument(
            "--dataset", metavar="FILE|ID", help="to measure on; left out: text of the model's own"
        )
    else:
        parser.add_argument(
            "--dataset", required=True, metavar="FILE|ID", help="a file is uploaded, once"
        )
        parser.add_argument("--validation-dataset", metavar="FILE|ID", help="what is held out")
    if job_type == "finetune":
        parser.add_argument("--start-from", metavar="JOB[:STEP]", help="begin with its checkpoint")
    parser.add_argument("--label", help="for people")
    parser.add_argument("--priority", action="store_true", help="before others; may cost more")
    add_hyperparams(parser, job_type)


def _add_sending(parser: Parser) -> None:
    parser.add_argument(
        "-f", "--follow", action="store_true", help="watch it; the exit code is its outcome's"
    )
    add_idempotency_key(parser)
    add_yes(parser)


def estimate(context: Context, *, type: JobType, **said: Any) -> int:
    with context.client() as client:
        wanted = _wanted(context, client, type, said)
        context.reply(client.jobs.with_raw_response.estimate(**wanted), _estimate)
    return OK


def submit(
    context: Context,
    *,
    type: JobType,
    estimate: bool,
    follow: bool,
    yes: bool,
    idempotency_key: str | None,
    **said: Any,
) -> int:
    with context.client() as client:
        wanted = _wanted(context, client, type, said)
        asking = client.jobs.with_raw_response
        if estimate:
            context.reply(asking.estimate(**wanted), _estimate)
            return OK
        if context.asks and not yes:
            context.err.print(_estimate(client.jobs.estimate(**wanted)))
            context.confirm("Submit it for this price?", yes=False)
        raw = asking.create(**wanted, idempotency_key=idempotency_key)
    job = raw.parse()
    context.reply(raw, lambda _: _submitted(job.id, money(job.price_cents, job.currency), "job"))
    return watch.follow(context, job.id) if follow else OK


def submit_run(
    context: Context,
    *,
    model: str,
    dataset: Path,
    label: str | None,
    priority: bool,
    accept_model_terms: bool,
    accept_data_policy: bool,
    follow: bool,
    yes: bool,
    idempotency_key: str | None,
) -> int:
    with context.client() as client:
        _accept(context, client, model, terms=accept_model_terms, policy=accept_data_policy)
        if context.asks and not yes:
            left = client.billing.balance()
            context.note(f"the balance is {money(left.balance_cents, left.currency)}")
            context.confirm("The size of the file decides the price. Take it?", yes=False)
        with progress_of(context, f"uploading {dataset.name}") as progress:
            raw = client.runs.with_raw_response.create(
                dataset=dataset,
                model_id=model,
                model_terms_accepted=True,
                data_policy_accepted=True,
                label=label,
                priority_processing=priority,
                progress=progress,
                idempotency_key=idempotency_key,
            )
    run = raw.parse()
    context.reply(raw, _run)
    return watch.follow(context, run.run_id) if follow else OK


def _accept(context: Context, client: "Tuneyard", model: str, *, terms: bool, policy: bool) -> None:
    """Asks for what was not said. Raises CliError where nobody can be asked, or doesn't accept."""
    missing = [] if terms else ["--accept-model-terms"]
    missing += [] if policy else ["--accept-data-policy"]
    if not missing:
        return
    known = next((one for one in client.models.list_for_runs() if one.model_id == model), None)
    urls = [known.terms_url, known.use_policy_url] if known else []
    where = " and ".join(url for url in urls if url) or "unknown, as the model is"
    if context.asks:
        context.note(f"terms of the model: {where}")
        context.confirm("Do you accept them, and may this data be used for training?", yes=False)
        return
    raise CliError(
        f"A run needs that you accept the model's terms ({where}) and the data policy.",
        hint=f"read them, and add {' '.join(missing)}",
        code="consent_required",
    )


def _run(run: RunCreated) -> str:
    plan = f" ({run.plan_name})" if run.plan_name else ""
    left = money(run.balance_after_cents, run.currency)
    price = money(run.price_cents, run.currency)
    return _submitted(run.run_id, f"{price}{plan}, which leaves {left}", "run")


def _submitted(job_id: str, price: str, what: str) -> str:
    return f"{what} {job_id} is queued for {price}\nfollow it: tuneyard watch {job_id}"


def _wanted(
    context: Context, client: "Tuneyard", job_type: JobType, said: dict[str, Any]
) -> dict[str, Any]:
    """What `jobs.create` and `jobs.estimate` take. Uploads what is a file."""

    def uploaded(name: str) -> str | None:
        named = said.get(name)
        return dataset_id_of(context, client, named) if named else None

    start_from = said.get("start_from")
    return {
        "type": job_type,
        "base_model_id": said["model"],
        "dataset_id": uploaded("dataset"),
        "validation_dataset_id": uploaded("validation_dataset"),
        "start_from": _checkpoint(start_from) if start_from else None,
        "hyperparams": hyperparams_of(job_type, said),
        "label": said["label"],
        "priority_processing": said["priority"] or None,
    }


def _checkpoint(text: str) -> StartFrom:
    job_id, _, step = text.partition(":")
    if step and not step.isdecimal():
        raise CliError(
            f"--start-from: {step!r} is no step.", hint="as --start-from JOB:STEP", code="usage"
        )
    return StartFrom(job_id=job_id, step=int(step)) if step else StartFrom(job_id=job_id)


def _estimate(of: Estimate) -> object:
    lasts = of.expected_duration_seconds
    return pairs(
        [
            ("price", money(of.price_cents, of.currency)),
            *((f"  {name}", money(cents, of.currency)) for name, cents in of.parts.items()),
            ("model", of.base_model.slug),
            ("steps", f"{of.steps_total:,}"),
            ("tokens", f"{of.tokens_planned:,}"),
            ("lasts about", lasting(lasts) if lasts is not None else None),
            ("as recommended", ", ".join(of.recommended) or None),
        ]
    )
