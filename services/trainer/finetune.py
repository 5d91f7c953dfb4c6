"""The job type ``finetune``: LoRA, every weight, or preferences, from a spec to files. Read it
downwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from libs.contracts.results import ParityReport, PreferenceReport, RunResult
from libs.contracts.training import TrainSpec
from services.trainer import checkpoint, export, parallel, preferences
from services.trainer.batches import mean_loss as next_token_loss
from services.trainer.checkpoint import Checkpoints, Progress
from services.trainer.forgetting import measure_forgetting
from services.trainer.journal import Journal, replace
from services.trainer.loading import ModelError, load_base, merge
from services.trainer.lora import add_lora, trainable
from services.trainer.objective import NextToken, Objective
from services.trainer.packing import training_steps
from services.trainer.preferences import PairObjective
from services.trainer.proof import parity_gate, side_by_side
from services.trainer.run import (
    Outcome,
    Run,
    check_window,
    device_name,
    lineage,
    perplexity,
    prepare,
    spaced,
    tell,
)
from services.trainer.sharding import Owners, collect, divide, master, of_mine
from services.trainer.start import Beginning, put
from services.trainer.steps import Learner, compile_if_worth, evaluate, round_weights, take_step

BEST = "best."
"""Before the names of a checkpoint's tensors that are the best weights so far."""


class Tuning(NamedTuple):
    """``adapter`` is peft's model around the network; None where every weight learns. ``best``
    holds the weights of the lowest held-out loss so far, empty while that is the beginning's."""

    learner: Learner
    adapter: PeftModel | None
    beginning: Beginning
    best: dict[str, Tensor]

    @property
    def network(self) -> Any:
        return self.learner.network


def finetune(spec: TrainSpec, journal: Journal, asked_to_stop: Callable[[], bool]) -> Outcome:
    """Runs the job. Raises `DatasetError`, `ModelError`, `DivergedError`, `ParityError`,
    `CheckpointError`."""
    run = prepare(spec, spec.finetune, journal)
    tuning = load_model(run)
    progress = begin(run, tuning)
    progress = train(run, tuning, progress, asked_to_stop)
    if progress.step < run.steps and not out_of_patience(run, progress):
        journal.log(f"stopped after step {progress.step} as asked; a checkpoint is kept")
        tell(run, "stopped", progress.step, progress.tokens_processed, now=True)
        return Outcome(None, progress.tokens_processed)
    loss, progress = settle(run, tuning, progress)
    if not parallel.is_first():  # the first has the same weights, and writes them
        return Outcome(None, progress.tokens_processed)
    result = finish(run, tuning, loss, progress)
    return Outcome(result, progress.tokens_processed)


def load_model(run: Run) -> Tuning:
    """The model as training begins, on whatever an earlier job has left for it."""
    spec, p = run.spec, run.spec.finetune
    torch.manual_seed(p.seed)
    adapter_path = Path(spec.adapter_path) if spec.adapter_path else None
    whole = p.method == "full"
    base = load_base(
        Path(spec.model_path), run.device, run.dtype, adapter=adapter_path if whole else None
    )
    check_window(base, p.seq_len)
    adapter = None if whole else add_lora(base, p, spec.base_name, start=adapter_path)
    if adapter is None:
        network, learnt = base, dict(base.requires_grad_(True).named_parameters())
    else:
        network, learnt = adapter.get_base_model(), trainable(adapter)
    owners = divide(learnt, parallel.size()) if whole else {}
    params, rounded = precise(learnt, owners)
    if spec.start_from:
        start_from(Path(spec.start_from), params, rounded, owners)
    own = [{"params": list(of_mine(params, owners).values())}]
    optimizer = torch.optim.AdamW(own, lr=0.0, weight_decay=p.weight_decay, fused=True)
    goal = objective(run, network)
    learner = Learner(network, params, optimizer, rounded, goal, owners=owners)
    count = sum(param.numel() for param in params.values())
    total = sum(param.numel() for param in base.parameters())
    how = "every weight learns" if whole else f"LoRA rank {p.lora_rank}: {spaced(count)} trainable"
    run.journal.log(
        f"model: {spec.base_name}, {spaced(total if whole else total - count)} parameters "
        f"in {run.identity.dtype} on {device_name(run.device)}; {how}"
    )
    return Tuning(learner, adapter, Beginning(network, rounded or params), {})


def precise(
    learnt: dict[str, torch.nn.Parameter], owners: Owners
) -> tuple[dict[str, torch.nn.Parameter], dict[str, torch.nn.Parameter]]:
    """(the fp32 weights that the optimizer changes, those that the network computes with where
    they are others)."""
    if all(weight.dtype == torch.float32 for weight in learnt.values()):
        return learnt, {}
    return {name: master(name, weight, owners) for name, weight in learnt.items()}, learnt


def start_from(
    folder: Path,
    params: dict[str, torch.nn.Parameter],
    rounded: dict[str, torch.nn.Parameter],
    owners: Owners,
) -> None:
    """Takes the weights of another job's checkpoint; its optimizer, schedule and data are not this
    one's. Raises `ModelError` for weights of another shape."""
    tensors = load_file(folder / checkpoint.TENSORS)
    found = {
        name.removeprefix(checkpoint.PARAM): tensor
        for name, tensor in tensors.items()
        if name.startswith(checkpoint.PARAM)
    }
    if {n: t.shape for n, t in found.items()} != {n: p.shape for n, p in params.items()}:
        raise ModelError(
            "the checkpoint to start from has other weights than this job; ask for the same base "
            "model, method, lora_rank and target_modules as the job that wrote it"
        )
    put(of_mine(found, owners), params)
    put(found, rounded or params)


def objective(run: Run, network: Any) -> Objective[Any]:
    """The next token; of preferences, what the model that training begins with thinks of them."""
    p = run.spec.finetune
    if p.method != "dpo":
        return NextToken()
    rows = preferences.rows_of_steps(run.split.train, p.batch_size * p.seq_len, p.seed, p.steps)
    run.journal.log(f"reading {len(rows)} pairs with the model as it is, to compare with")
    micro_tokens = run.plan.micro_tokens
    rows = [*rows, *run.split.validation]
    return PairObjective(
        p.beta, preferences.reference_of(network, rows, micro_tokens, run.device, run.dtype)
    )


def begin(run: Run, tuning: Tuning) -> Progress:
    """Goes on from the checkpoint, or measures the model as it is."""
    learner = tuning.learner
    if run.spec.resume_from:
        tensors, progress = checkpoint.read(Path(run.spec.resume_from), run.identity)
        checkpoint.restore(tensors, learner.params, learner.optimizer, learner.owners)
        round_weights(learner)
        best = {n.removeprefix(BEST): t for n, t in tensors.items() if n.startswith(BEST)}
        tuning.best.update(of_mine(best, learner.owners))
        run.journal.log(f"resumed after step {progress.step}")
        tell(run, "train", progress.step, progress.tokens_processed, now=True)
        return progress
    tell(run, "eval", 0, 0, now=True)
    loss, progress = evaluate(run, learner, Progress(identity=run.identity))
    answers = loss
    if run.spec.finetune.method == "dpo":
        answers = answer_loss(run, tuning)
    return msgspec.structs.replace(
        progress, loss_baseline=loss, answer_loss_baseline=answers, best_loss=loss
    )


def answer_loss(run: Run, tuning: Tuning) -> float:
    """Mean cross entropy of the held-out answers: of preferences, of the chosen ones."""
    return next_token_loss(tuning.network, run.split.examples, run.device, run.dtype)


def train(
    run: Run, tuning: Tuning, progress: Progress, asked_to_stop: Callable[[], bool]
) -> Progress:
    """The loop. Ends after the last step, when patience is out, or after the step in which it was
    asked to stop."""
    p = run.spec.finetune
    some = run.split.train[: p.batch_size]
    learner, progress = compile_if_worth(run, tuning.learner, some, progress)
    checkpoints = Checkpoints(
        Path(run.spec.out_dir) / "checkpoints",
        lambda step: run.journal.log(f"checkpoint step-{step} written"),
        fresh=progress.step == 0,
    )
    stream = training_steps(run.split.train, p.batch_size * p.seq_len, p.seed, progress.position)
    stopping = asked_to_stop()
    while progress.step < run.steps and not stopping:
        progress = take_step(run, learner, stream, progress)
        stopping = asked_to_stop()
        at_end = progress.step == run.steps
        if progress.step % p.eval_every == 0 and not at_end:
            tell(run, "eval", progress.step, progress.tokens_processed, now=True)
            loss, progress = evaluate(run, learner, progress)
            progress = note(run, tuning, progress, loss)
            if out_of_patience(run, progress):
                break
        if (progress.step % p.checkpoint_every == 0 and not at_end) or stopping:
            tensors = checkpoint.optimizer_tensors(
                learner.params, learner.optimizer, learner.owners
            )
            best = {BEST + name: tensor for name, tensor in tuning.best.items()}
            if progress.best_step:
                collect(best, learner.params, BEST, learner.owners)
            checkpoints.save(tensors | best, progress, learner.optimizer)
    checkpoints.close()
    return progress


def note(run: Run, tuning: Tuning, progress: Progress, loss: float) -> Progress:
    """Keeps the weights if none were better, for a run that has patience."""
    if run.spec.finetune.patience is None:
        return progress
    assert progress.best_loss is not None
    loss = parallel.as_first(loss)
    if loss >= progress.best_loss:
        return msgspec.structs.replace(progress, waited=progress.waited + 1)
    own = of_mine(tuning.learner.params, tuning.learner.owners)
    tuning.best.update({n: p.detach().to("cpu", copy=True) for n, p in own.items()})
    return msgspec.structs.replace(progress, best_loss=loss, best_step=progress.step, waited=0)


def out_of_patience(run: Run, progress: Progress) -> bool:
    patience = run.spec.finetune.patience
    return patience is not None and progress.waited >= patience


def settle(run: Run, tuning: Tuning, progress: Progress) -> tuple[float, Progress]:
    """(the held-out loss of the result, progress): the last weights, or with patience the best."""
    if progress.step == run.steps:
        tell(run, "eval", progress.step, progress.tokens_processed, now=True)
        loss, progress = evaluate(run, tuning.learner, progress)
        if run.spec.finetune.patience is None:
            return loss, msgspec.structs.replace(progress, best_step=progress.step)
        progress = note(run, tuning, progress, loss)
    assert progress.best_loss is not None
    if progress.best_step < progress.step:
        with torch.no_grad():
            if progress.best_step:
                put(tuning.best, tuning.learner.params)
                round_weights(tuning.learner)
            else:
                tuning.beginning.put_back()
        run.journal.log(
            f"stopped at step {progress.step}: the held-out loss was lowest after step "
            f"{progress.best_step}, whose weights are kept"
        )
    return progress.best_loss, progress


def finish(run: Run, tuning: Tuning, loss: float, progress: Progress) -> RunResult:
    """Export, parity gate, samples, result."""
    spec, p = run.spec, run.spec.finetune
    answers = answer_loss(run, tuning) if p.method == "dpo" else loss
    tell(run, "export", progress.step, progress.tokens_processed, now=True)
    ppl_before, ppl_after = perplexity(progress.answer_loss_baseline), perplexity(answers)
    parity = ship(run, tuning, ppl_before, ppl_after, progress.best_step)
    learnt = sum(param.numel() for param in tuning.learner.params.values())
    total = sum(param.numel() for param in tuning.network.parameters())
    added = learnt if tuning.adapter else 0
    result = RunResult(
        ppl_baseline=ppl_before,
        ppl_final=ppl_after,
        ppl_delta_pct=100 * (ppl_after / ppl_before - 1),
        loss_final=loss,
        params_before=total - added,
        params_after=total,
        params_delta=added,
        function_preservation=0.0,
        gpu_seconds=progress.gpu_seconds,
        tokens_processed=progress.tokens_processed,
        split=run.split.name,
        steps=progress.step,
        train_loss_final=progress.train_loss,
        rows_truncated=run.data.rows_truncated,
        tokens_truncated=run.data.tokens_truncated,
        device=device_name(run.device),
        parity=parity,
        samples=side_by_side(run, tuning.network, tuning.beginning.again),
        lineage=lineage(run),
        forgetting=measure_forgetting(run, tuning.network, tuning.beginning.again),
        preference=preference(run, tuning),
        stopped_early=progress.step < run.steps,
        best_step=progress.best_step,
    )
    replace(Path(spec.out_dir) / "result.json", result)
    run.journal.log(
        f"done · perplexity on {run.split.name}: {ppl_before:.2f} before, {ppl_after:.2f} after"
    )
    tell(run, "done", progress.step, progress.tokens_processed, now=True)
    return result


def ship(run: Run, tuning: Tuning, ppl_before: float, ppl_after: float, steps: int) -> ParityReport:
    """Writes the files, reloads them as anyone would, and compares. Raises `ParityError`."""
    spec, base = run.spec, Path(run.spec.model_path)
    model_dir = Path(spec.out_dir) / "model"
    said = {"base": spec.base_name, "split": run.split.name}
    measured = {"ppl_baseline": ppl_before, "ppl_final": ppl_after}
    title = f"{spec.base_name}, fine-tuned"
    if tuning.adapter is None:
        card = export.MODEL_CARD.format(title=title, **said, **measured)
        export.export_model(tuning.network, run.tokenizer, card, model_dir)
        reloaded = export.reload(model_dir, None, run.device, run.dtype)
        return parity_gate(run, tuning.network, reloaded)
    card = export.ADAPTER_CARD.format(steps=steps, **said, **measured)
    export.export_adapter(tuning.adapter, run.tokenizer, base, card, model_dir)
    reloaded = export.reload(base, model_dir, run.device, run.dtype)
    parity = parity_gate(run, tuning.network, reloaded)
    if spec.finetune.merged_model:
        card = export.MODEL_CARD.format(title=f"{title}, merged", **said, **measured)
        merged_dir = model_dir.with_name("merged")
        export.export_model(merge(reloaded), run.tokenizer, card, merged_dir)
        whole = export.reload(merged_dir, None, run.device, run.dtype)
        parity_gate(run, tuning.network, whole)
    return parity


def preference(run: Run, tuning: Tuning) -> PreferenceReport | None:
    goal = tuning.learner.objective
    if not isinstance(goal, PairObjective):
        return None
    micro_tokens = run.plan.micro_tokens
    report = preferences.measure(
        goal, tuning.network, run.split.validation, micro_tokens, run.device, run.dtype
    )
    run.journal.log(
        f"preferences on {run.split.name}: {report.accuracy:.1%} as chosen, margin "
        f"{report.margin:.2f}"
    )
    return report
