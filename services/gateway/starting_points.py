"""The checkpoint of another job that a fine-tune begins with. Pure."""

from datetime import datetime

from libs.contracts.base import ModelRef
from libs.contracts.scheduler import Checkpoint
from libs.contracts.training import FinetuneParams, Hyperparams
from libs.jobstate.state import JobState
from services.gateway.http.errors import invalid
from services.gateway.job_requests import StartFrom


def starting_point(
    wanted: StartFrom, job: JobState, model: ModelRef, params: Hyperparams, now: datetime
) -> Checkpoint:
    """What to begin with. Raises ApiError 422 that says what differs, or which there are."""
    if job.params is None or not isinstance(params, FinetuneParams):
        raise invalid(
            f"start_from: job {job.id} is a {job.type} job, and only a fine-tune's checkpoint can"
            " be begun with; name the model that it made as the base instead"
        )
    if differences := _differences(job.model, job.params, model, params):
        raise invalid(
            f"start_from: job {job.id} differs in {'; '.join(differences)}. Ask for the same, or"
            " leave start_from out"
        )
    kept = job.checkpoints_at(now)
    if not kept:
        raise invalid(
            f"start_from: job {job.id} has no checkpoints (any more); GET /v1/jobs/{job.id}"
            "/checkpoints lists them. Name another job, or leave start_from out"
        )
    if wanted.step is None:
        return kept[0].checkpoint
    for one in kept:
        if one.checkpoint.step == wanted.step:
            return one.checkpoint
    steps = ", ".join(str(one.checkpoint.step) for one in kept)
    raise invalid(f"start_from.step: job {job.id} has checkpoints at the steps {steps}; name one")


def _differences(
    its_model: ModelRef, its: FinetuneParams, model: ModelRef, params: FinetuneParams
) -> list[str]:
    found = []
    if its_model.id != model.id:
        found.append(f"its base model ({its_model.slug}, not {model.slug})")
    if its.method != params.method:
        found.append(f"its method ({its.method}, not {params.method})")
    elif params.method != "full":
        for name in ("lora_rank", "lora_alpha", "use_rslora"):
            theirs, ours = getattr(its, name), getattr(params, name)
            if theirs != ours:
                found.append(f"its {name} ({theirs}, not {ours})")
        if its.target_modules != params.target_modules:
            found.append(f"its target_modules ({_layers(its)}, not {_layers(params)})")
    return found


def _layers(params: FinetuneParams) -> str:
    return "all" if params.target_modules is None else ", ".join(params.target_modules)
