"""The job type ``train``: a model grows by whole blocks, and what grew learns. Read it downwards.

After LLaMA Pro (Wu et al., 2401.02415): copies of blocks at even spacing, which at first add
nothing, are trained while all that the model had stays as it was.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from libs.contracts.results import GrowthReport, RunResult
from libs.contracts.training import TrainParams, TrainSpec
from services.trainer import checkpoint, export, parallel
from services.trainer.checkpoint import Checkpoints, Progress
from services.trainer.depth import Blocks, arrange, blocks_of, keep, silent_copy
from services.trainer.export import ParityError
from services.trainer.journal import Journal, replace
from services.trainer.loading import load_base
from services.trainer.packing import training_steps
from services.trainer.proof import PARITY_DOCUMENTS, held_out_logits, parity_gate, side_by_side
from services.trainer.run import (
    Outcome,
    Run,
    check_window,
    device_name,
    lineage,
    perplexity,
    prepare,
    record,
    spaced,
    tell,
)
from services.trainer.steps import Learner, evaluate, rate, round_weights, take_step

# A model never gets deeper than this many times its base; further cycles train what is there. Four
# is the most that was found to pay (Du et al., "Stacking Your Transformers", 2405.15319).
MAX_DEPTH_FACTOR = 4


class Tower(NamedTuple):
    """A model that grows. The n-th block to come (``grown[n]``, when it is there) stands behind
    block ``places[n]`` of the base, whose copy it is."""

    model: Any
    base: Blocks
    places: list[int]
    grown: list[Module]


def grow(spec: TrainSpec, journal: Journal, asked_to_stop: Callable[[], bool]) -> Outcome:
    """Runs the job. Raises `DatasetError`, `ModelError`, `DivergedError`, `ParityError`,
    `CheckpointError`."""
    run = prepare(spec, spec.train, journal)
    tower = load_tower(run)
    learner = make_learner(run, tower)
    progress = begin(run, tower, learner)
    progress = train(run, tower, learner, progress, asked_to_stop)
    if progress.step < run.steps:
        journal.log(f"stopped after step {progress.step} as asked; a checkpoint is kept")
        tell(run, "stopped", progress.step, progress.tokens_processed, now=True)
        return Outcome(None, progress.tokens_processed)
    if not parallel.is_first():  # the first has the same weights, and writes them
        return Outcome(None, progress.tokens_processed)
    result = finish(run, tower, progress)
    return Outcome(result, progress.tokens_processed)


def load_tower(run: Run) -> Tower:
    spec, p = run.spec, run.spec.train
    torch.manual_seed(p.seed)
    model = load_base(Path(spec.model_path), run.device, run.dtype)
    check_window(model, p.seq_len)
    base = blocks_of(model)
    depth = len(base.modules)
    places = growth_places(depth, p)
    run.journal.log(
        f"model: {spec.base_name}, {spaced(model.num_parameters())} parameters in "
        f"{run.identity.dtype} on {device_name(run.device)}; {depth} blocks, "
        f"{depth + len(places)} after growth"
    )
    if len(places) < p.cycles * p.layers_per_cycle:
        run.journal.log(
            f"growth ends at {MAX_DEPTH_FACTOR} times the base's depth; the cycles behind it train "
            "what has grown"
        )
    return Tower(model, base, places, [])


def growth_places(depth: int, p: TrainParams) -> list[int]:
    """Behind which of the base's ``depth`` blocks each new one stands, in the order of coming.

    All of them together are evenly spaced, and so are those of one cycle. The upper come first:
    while there is nothing new below them, gradients need not go further down.
    """
    count = min(p.cycles * p.layers_per_cycle, (MAX_DEPTH_FACTOR - 1) * depth)
    even = [math.ceil((n + 1) * depth / count) - 1 for n in range(count)]
    cycles = math.ceil(count / p.layers_per_cycle)
    return [place for cycle in range(cycles) for place in even[::-1][cycle::cycles]]


def make_learner(run: Run, tower: Tower) -> Learner:
    """Nothing learns yet; `insert` adds what does."""
    optimizer = torch.optim.AdamW(
        [{"params": []}], lr=0.0, weight_decay=run.spec.train.weight_decay, fused=True
    )
    return Learner(tower.model, {}, optimizer, rounded={})


def insert(tower: Tower, learner: Learner, count: int) -> None:
    """Lets the model have ``count`` new blocks, silent ones, and the learner learn them."""
    params: list[Parameter] = []
    for number in range(len(tower.grown), count):
        block = silent_copy(tower.model, tower.base.modules[tower.places[number]])
        tower.grown.append(block.requires_grad_(True))
        for name, weight in block.named_parameters():
            param = Parameter(weight.detach().to(torch.float32, copy=True))
            learner.rounded[f"{number}.{name}"] = weight
            learner.params[f"{number}.{name}"] = param
            params.append(param)
    learner.optimizer.add_param_group({"params": params})
    stack(tower)


def stack(tower: Tower) -> None:
    """Puts every block into its place, the new among the old."""
    order = []
    for number, module in enumerate(tower.base.modules):
        order.append((module, number))
        order += [
            (new, place)
            for new, place in zip(tower.grown, tower.places, strict=False)
            if place == number
        ]
    arrange(tower.model, tower.base, order)


@contextmanager
def as_base(tower: Tower) -> Iterator[Any]:
    """Within it, the model is what it was before anything grew."""
    keep(tower.model, tower.base, range(len(tower.base.modules)))
    yield tower.model
    stack(tower)


def begin(run: Run, tower: Tower, learner: Learner) -> Progress:
    """Goes on from the checkpoint, or measures the base."""
    if run.spec.resume_from:
        tensors, progress = checkpoint.read(Path(run.spec.resume_from), run.identity)
        insert(tower, learner, progress.blocks)
        checkpoint.restore(tensors, learner.params, learner.optimizer)
        round_weights(learner)
        run.journal.log(f"resumed after step {progress.step}, with {progress.blocks} blocks grown")
        tell(run, "train", progress.step, progress.tokens_processed, now=True)
        return progress
    tell(run, "eval", 0, 0, now=True)
    loss, progress = evaluate(run, learner, Progress(identity=run.identity))
    return msgspec.structs.replace(progress, loss_baseline=loss, loss_held_out=loss)


def train(
    run: Run,
    tower: Tower,
    learner: Learner,
    progress: Progress,
    asked_to_stop: Callable[[], bool],
) -> Progress:
    """The cycles: grow, train, eval. Ends after the last, or after the step in which it was asked
    to stop.

    A checkpoint between two cycles is taken when the second has grown: what was told by then is
    exactly what a run that goes on from there does not tell again.
    """
    p = run.spec.train
    checkpoints = Checkpoints(
        Path(run.spec.out_dir) / "checkpoints",
        lambda step: run.journal.log(f"checkpoint step-{step} written"),
        fresh=progress.step == 0,
    )
    saved = progress.step
    stream = training_steps(run.split.train, p.batch_size * p.seq_len, p.seed, progress.position)
    stopping = asked_to_stop()
    while progress.cycle < p.planned_cycles and not (stopping and progress.step < run.steps):
        if progress.step == (progress.cycle + 1) * p.steps_per_cycle:
            progress = end_cycle(run, learner, progress)
            continue
        wanted = min((progress.cycle + 1) * p.layers_per_cycle, len(tower.places))
        if progress.blocks < wanted:
            progress = begin_cycle(run, tower, learner, progress, wanted)
        if progress.step % p.checkpoint_every == 0 and progress.step > saved:
            save(checkpoints, learner, progress)
            saved = progress.step
        progress = take_step(run, learner, stream, progress, cycle=progress.cycle + 1)
        stopping = asked_to_stop()
    if progress.cycle < p.planned_cycles and progress.step > saved:
        save(checkpoints, learner, progress)
    checkpoints.close()
    return progress


def save(checkpoints: Checkpoints, learner: Learner, progress: Progress) -> None:
    tensors = checkpoint.optimizer_tensors(learner.params, learner.optimizer)
    checkpoints.save(tensors, progress, learner.optimizer)


def begin_cycle(
    run: Run, tower: Tower, learner: Learner, progress: Progress, blocks: int
) -> Progress:
    """Grows, and sees that nothing else has changed. Raises `ParityError`."""
    cycle = progress.cycle + 1
    tell(run, "grow", progress.step, progress.tokens_processed, now=True)
    started = time.perf_counter()
    before = held_out_logits(run, tower.model)
    insert(tower, learner, blocks)
    report = measure_growth(blocks, before, held_out_logits(run, tower.model))
    seconds = time.perf_counter() - started
    read = 2 * sum(len(d.tokens) for d in run.split.validation[:PARITY_DOCUMENTS])
    record(
        run,
        "grow",
        step=progress.step,
        cycle=cycle,
        loss=progress.loss_held_out,
        lr=rate(run, progress.step),
        throughput=read / seconds,
    )
    trained = sum(param.numel() for param in learner.params.values())
    run.journal.log(
        f"cycle {cycle}/{run.spec.train.planned_cycles} · grown to "
        f"{len(tower.base.modules) + blocks} blocks, {spaced(trained)} parameters to train · "
        f"largest change of a logit {report.max_abs_logit:g}"
    )
    return msgspec.structs.replace(
        progress, blocks=blocks, growth=report, gpu_seconds=progress.gpu_seconds + seconds
    )


def measure_growth(blocks: int, before: Tensor, after: Tensor) -> GrowthReport:
    """Both [labels, vocabulary] in fp32. Raises `ParityError` if any number of them differs."""
    compared = export.compare(before, after)
    if compared.max_abs_logit != 0:  # nor is NaN
        raise ParityError(
            f"new blocks changed what the model says (by up to {compared.max_abs_logit:.2g} in a "
            "logit) where they must change nothing; this architecture can't be grown here, so "
            "choose another base model"
        )
    return GrowthReport(
        blocks=blocks,
        mean_kl=compared.mean_kl,
        max_abs_logit=compared.max_abs_logit,
        rel_l2=((after - before).norm() / before.norm()).item(),
    )


def end_cycle(run: Run, learner: Learner, progress: Progress) -> Progress:
    tell(run, "eval", progress.step, progress.tokens_processed, now=True)
    loss, progress = evaluate(run, learner, progress, cycle=progress.cycle + 1)
    return msgspec.structs.replace(progress, cycle=progress.cycle + 1, loss_held_out=loss)


def finish(run: Run, tower: Tower, progress: Progress) -> RunResult:
    """Export, parity gate, samples, result."""
    spec, model, loss = run.spec, tower.model, progress.loss_held_out
    model_dir = Path(spec.out_dir) / "model"
    run.journal.log("Training complete — saving your model…")
    tell(run, "export", progress.step, progress.tokens_processed, now=True)
    ppl_before, ppl_after = perplexity(progress.loss_baseline), perplexity(loss)
    card = export.MODEL_CARD.format(
        base=spec.base_name,
        title=f"{spec.base_name}, grown by {progress.blocks} blocks",
        split=run.split.name,
        ppl_baseline=ppl_before,
        ppl_final=ppl_after,
    )
    export.export_model(model, run.tokenizer, card, model_dir)
    reloaded = export.reload(model_dir, None, run.device, run.dtype)
    added = sum(param.numel() for block in tower.grown for param in block.parameters())
    count = sum(param.numel() for param in model.parameters())
    assert progress.growth is not None
    result = RunResult(
        ppl_baseline=ppl_before,
        ppl_final=ppl_after,
        ppl_delta_pct=100 * (ppl_after / ppl_before - 1),
        loss_final=loss,
        params_before=count - added,
        params_after=count,
        params_delta=added,
        function_preservation=progress.growth.mean_kl,
        growth=progress.growth,
        gpu_seconds=progress.gpu_seconds,
        tokens_processed=progress.tokens_processed,
        split=run.split.name,
        steps=progress.step,
        train_loss_final=progress.train_loss,
        rows_truncated=run.data.rows_truncated,
        tokens_truncated=run.data.tokens_truncated,
        device=device_name(run.device),
        parity=parity_gate(run, model, reloaded),
        samples=side_by_side(run, model, lambda: as_base(tower)),
        lineage=lineage(run),
    )
    replace(model_dir.with_name("result.json"), result)
    run.journal.log(
        f"done · perplexity on {run.split.name}: {ppl_before:.2f} before, {ppl_after:.2f} after"
    )
    tell(run, "done", progress.step, progress.tokens_processed, now=True)
    return result
