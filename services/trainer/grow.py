"""The job type ``train``: a model grows, and what grew learns, or all of it. Read it downwards.

In depth after LLaMA Pro (Wu et al., 2401.02415): copies of blocks at even spacing, which at first
add nothing, are trained while all that the model had stays as it was. In width after Net2Net (Chen
et al., 1511.05641): copies of neurons that share with the original what it said.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec
import torch
from torch import Tensor
from torch.nn import Parameter

from libs.contracts.results import GrowthReport, RunResult
from libs.contracts.training import TrainParams, TrainSpec
from services.trainer import checkpoint, export, parallel
from services.trainer.checkpoint import Checkpoints, Progress
from services.trainer.depth import (
    MAX_DEPTH_FACTOR,
    Gain,
    Tower,
    Unit,
    blocks_of,
    growth_places,
)
from services.trainer.export import ParityError
from services.trainer.forgetting import measure_forgetting
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
from services.trainer.widening import Widening

# How far a growth may move the logits, by the network's precision: the norm of the difference over
# theirs. New blocks must not move them at all. Wider MLPs add up in another order (measured on
# tiny-llama: 2e-7 in fp32, 4e-3 in bf16).
MAX_REL_L2 = {
    "blocks": {torch.float32: 0.0, torch.bfloat16: 0.0},
    "neurons": {torch.float32: 1e-4, torch.bfloat16: 1e-2},
}


class Growing(Protocol):
    """A model that grows, in one way or the other; sizes are in its unit, and without the base's
    own."""

    unit: ClassVar[Unit]
    model: Any
    base_params: int

    def size_after(self, cycle: int) -> int: ...

    def gain(self, size: int, master: Callable[[Parameter], Tensor]) -> Iterator[Gain]: ...

    def without_grown(self) -> AbstractContextManager[None]: ...

    def as_saved(self) -> AbstractContextManager[None]: ...

    def shape(self) -> str: ...


def grow(spec: TrainSpec, journal: Journal, asked_to_stop: Callable[[], bool]) -> Outcome:
    """Runs the job. Raises `DatasetError`, `ModelError`, `DivergedError`, `ParityError`,
    `CheckpointError`."""
    run = prepare(spec, spec.train, journal)
    growing = load_model(run)
    learner = make_learner(run, growing)
    progress = begin(run, growing, learner)
    progress = train(run, growing, learner, progress, asked_to_stop)
    if progress.step < run.steps:
        journal.log(f"stopped after step {progress.step} as asked; a checkpoint is kept")
        tell(run, "stopped", progress.step, progress.tokens_processed, now=True)
        return Outcome(None, progress.tokens_processed)
    if not parallel.is_first():  # the first has the same weights, and writes them
        return Outcome(None, progress.tokens_processed)
    result = finish(run, growing, progress)
    return Outcome(result, progress.tokens_processed)


def load_model(run: Run) -> Growing:
    spec, p = run.spec, run.spec.train
    torch.manual_seed(p.seed)
    model = load(run)
    check_window(model, p.seq_len)
    growing = growing_of(model, p)
    last = growing.size_after(p.cycles)
    run.journal.log(
        f"model: {spec.base_name}, {spaced(model.num_parameters())} parameters in "
        f"{run.identity.dtype} on {device_name(run.device)}; {growing.shape()}, "
        f"{last} more after growth"
    )
    if p.strategy == "depth" and last < p.cycles * p.layers_per_cycle:
        run.journal.log(
            f"growth ends at {MAX_DEPTH_FACTOR} times the base's depth; the cycles behind it train "
            "what has grown"
        )
    growths = len({growing.size_after(cycle) for cycle in range(1, p.cycles + 1)})
    if p.strategy == "width" and growths < p.cycles:
        run.journal.log(
            f"an MLP's width is a multiple, so it grows in {growths} of the {p.cycles} cycles; the "
            "others train what has grown"
        )
    return growing


def growing_of(model: Any, p: TrainParams) -> Growing:
    """Raises `ModelError` for a model that can't grow so."""
    if p.strategy == "width":
        return Widening(model, p.cycles, all_learn=p.trainable == "all", seed=p.seed)
    places = growth_places(len(blocks_of(model).modules), p)
    return Tower(model, places, p.layers_per_cycle)


def make_learner(run: Run, growing: Growing) -> Learner:
    """What learns from the beginning: all that is there, or nothing; `insert` adds to it."""
    p = run.spec.train
    optimizer = torch.optim.AdamW([{"params": []}], lr=0.0, weight_decay=p.weight_decay, fused=True)
    learner = Learner(growing.model, {}, optimizer, rounded={})
    if p.trainable == "all":
        learn(learner, [Gain(n, w, w) for n, w in growing.model.named_parameters()])
    return learner


def learn(learner: Learner, gains: Iterable[Gain]) -> None:
    """Lets the learner learn these weights of its network, too."""
    params: list[Parameter] = []
    for name, weight, start in gains:
        weight.requires_grad_(True)
        if weight.dtype != torch.float32:
            learner.rounded[name] = weight
            weight = Parameter(start.detach().to(torch.float32, copy=True))
        learner.params[name] = weight
        params.append(weight)
    learner.optimizer.add_param_group({"params": params})


def insert(growing: Growing, learner: Learner, size: int) -> None:
    """Lets the model grow to ``size`` in its unit, and the learner learn what is new."""
    behind = {id(weight): learner.params[name] for name, weight in learner.rounded.items()}
    learn(learner, growing.gain(size, lambda weight: behind.get(id(weight), weight)))


@contextmanager
def as_base(run: Run, growing: Growing) -> Iterator[Any]:
    """Gives the model that was there before anything grew or learnt."""
    if run.spec.train.trainable == "new_blocks":
        with growing.without_grown():
            yield growing.model
    else:
        yield load(run)  # the weights that it had are gone


def load(run: Run) -> Any:
    """The model that the job begins with, frozen."""
    spec = run.spec
    adapter = Path(spec.adapter_path) if spec.adapter_path else None
    return load_base(Path(spec.model_path), run.device, run.dtype, adapter)


def begin(run: Run, growing: Growing, learner: Learner) -> Progress:
    """Goes on from the checkpoint, or measures the base."""
    if run.spec.resume_from:
        tensors, progress = checkpoint.read(Path(run.spec.resume_from), run.identity)
        insert(growing, learner, grown(progress))
        checkpoint.restore(tensors, learner.params, learner.optimizer)
        round_weights(learner)
        run.journal.log(f"resumed after step {progress.step}, with {growing.shape()}")
        tell(run, "train", progress.step, progress.tokens_processed, now=True)
        return progress
    tell(run, "eval", 0, 0, now=True)
    loss, progress = evaluate(run, learner, Progress(identity=run.identity))
    return msgspec.structs.replace(progress, loss_baseline=loss, loss_held_out=loss)


def train(
    run: Run,
    growing: Growing,
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
        size = growing.size_after(progress.cycle + 1)
        if grown(progress) < size:
            progress = begin_cycle(run, growing, learner, progress, size)
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


def grown(progress: Progress) -> int:
    """By how much the model has grown, in the unit in which it does."""
    return progress.blocks + progress.neurons


def begin_cycle(
    run: Run, growing: Growing, learner: Learner, progress: Progress, size: int
) -> Progress:
    """Grows, and sees that nothing else has changed. Raises `ParityError`."""
    cycle = progress.cycle + 1
    tell(run, "grow", progress.step, progress.tokens_processed, now=True)
    started = time.perf_counter()
    with growing.as_saved():
        before = held_out_logits(run, growing.model)
    insert(growing, learner, size)
    with growing.as_saved():
        after = held_out_logits(run, growing.model)
    report = measure_growth(growing.unit, size, before, after, run.dtype)
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
        f"cycle {cycle}/{run.spec.train.planned_cycles} · grown to {growing.shape()}, "
        f"{spaced(trained)} parameters to train · largest change of a logit "
        f"{report.max_abs_logit:.2g}, of all {report.rel_l2:.1e}"
    )
    return msgspec.structs.replace(
        progress,
        blocks=report.blocks,
        neurons=report.neurons,
        growth=report,
        gpu_seconds=progress.gpu_seconds + seconds,
    )


def measure_growth(
    unit: Unit, size: int, before: Tensor, after: Tensor, dtype: torch.dtype
) -> GrowthReport:
    """Both [labels, vocabulary] in fp32, computed in ``dtype``. Raises `ParityError` if they differ
    by more than rounding, and for new blocks if any number of them differs; NaN always does."""
    compared = export.compare(before, after)
    rel_l2 = ((after - before).norm() / before.norm()).item()
    if not rel_l2 <= MAX_REL_L2[unit][dtype]:
        raise ParityError(
            f"new {unit} changed what the model says (by up to {compared.max_abs_logit:.2g} in a "
            f"logit, {rel_l2:.2g} of all) where they must change nothing; this architecture can't "
            "be grown here, so choose another base model"
        )
    return GrowthReport(
        blocks=size if unit == "blocks" else 0,
        neurons=size if unit == "neurons" else 0,
        mean_kl=compared.mean_kl,
        max_abs_logit=compared.max_abs_logit,
        rel_l2=rel_l2,
    )


def end_cycle(run: Run, learner: Learner, progress: Progress) -> Progress:
    tell(run, "eval", progress.step, progress.tokens_processed, now=True)
    loss, progress = evaluate(run, learner, progress, cycle=progress.cycle + 1)
    return msgspec.structs.replace(progress, cycle=progress.cycle + 1, loss_held_out=loss)


def finish(run: Run, growing: Growing, progress: Progress) -> RunResult:
    """Export, parity gate, samples, result."""
    spec, model, loss = run.spec, growing.model, progress.loss_held_out
    assert progress.growth is not None
    model_dir = Path(spec.out_dir) / "model"
    run.journal.log("Training complete — saving your model…")
    tell(run, "export", progress.step, progress.tokens_processed, now=True)
    ppl_before, ppl_after = perplexity(progress.loss_baseline), perplexity(loss)
    card = export.MODEL_CARD.format(
        base=spec.base_name,
        title=f"{spec.base_name}, grown to {growing.shape()}",
        split=run.split.name,
        ppl_baseline=ppl_before,
        ppl_final=ppl_after,
    )
    with growing.as_saved():
        export.export_model(model, run.tokenizer, card, model_dir)
    parity = parity_gate(run, model, export.reload(model_dir, None, run.device, run.dtype))
    count = sum(param.numel() for param in model.parameters())
    result = RunResult(
        ppl_baseline=ppl_before,
        ppl_final=ppl_after,
        ppl_delta_pct=100 * (ppl_after / ppl_before - 1),
        loss_final=loss,
        params_before=growing.base_params,
        params_after=count,
        params_delta=count - growing.base_params,
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
        parity=parity,
        samples=side_by_side(run, model, lambda: as_base(run, growing)),
        lineage=lineage(run),
        forgetting=measure_forgetting(run, model, lambda: as_base(run, growing)),
    )
    replace(model_dir.with_name("result.json"), result)
    run.journal.log(
        f"done · perplexity on {run.split.name}: {ppl_before:.2f} before, {ppl_after:.2f} after"
    )
    tell(run, "done", progress.step, progress.tokens_processed, now=True)
    return result
