"""The job type ``finetune``: LoRA on packed documents, from a spec to files. Read it downwards."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from peft import PeftModel

from libs.contracts.results import RunResult
from libs.contracts.training import TrainSpec
from services.trainer import checkpoint, export
from services.trainer.checkpoint import Checkpoints, Progress
from services.trainer.journal import Journal, replace
from services.trainer.loading import load_base
from services.trainer.lora import add_lora, trainable
from services.trainer.packing import training_steps
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
from services.trainer.steps import Learner, evaluate, take_step


def finetune(spec: TrainSpec, journal: Journal, asked_to_stop: Callable[[], bool]) -> Outcome:
    """Runs the job. Raises `DatasetError`, `ModelError`, `DivergedError`, `ParityError`,
    `CheckpointError`."""
    run = prepare(spec, spec.finetune, journal)
    model = load_model(run)
    learner = make_learner(run, model)
    progress = begin(run, learner)
    progress = train(run, learner, progress, asked_to_stop)
    if progress.step < spec.finetune.steps:
        journal.log(f"stopped after step {progress.step} as asked; a checkpoint is kept")
        tell(run, "stopped", progress.step, progress.tokens_processed, now=True)
        return Outcome(None, progress.tokens_processed)
    result = finish(run, model, learner, progress)
    return Outcome(result, progress.tokens_processed)


def load_model(run: Run) -> PeftModel:
    spec = run.spec
    torch.manual_seed(spec.finetune.seed)
    base = load_base(Path(spec.model_path), run.device, run.dtype)
    check_window(base, spec.finetune.seq_len)
    model = add_lora(base, spec.finetune, spec.base_name)
    count = sum(p.numel() for p in trainable(model).values())
    run.journal.log(
        f"model: {spec.base_name}, {spaced(base.num_parameters() - count)} parameters "
        f"in {run.identity.dtype} on {device_name(run.device)}; LoRA rank "
        f"{spec.finetune.lora_rank}: {spaced(count)} trainable"
    )
    return model


def make_learner(run: Run, model: PeftModel) -> Learner:
    params = trainable(model)
    optimizer = torch.optim.AdamW(
        params.values(), lr=0.0, weight_decay=run.spec.finetune.weight_decay, fused=True
    )
    return Learner(model.get_base_model(), params, optimizer, rounded={})


def begin(run: Run, learner: Learner) -> Progress:
    """Goes on from the checkpoint, or measures the untuned model: LoRA starts as exactly that."""
    if run.spec.resume_from:
        tensors, progress = checkpoint.read(Path(run.spec.resume_from), run.identity)
        checkpoint.restore(tensors, learner.params, learner.optimizer)
        run.journal.log(f"resumed after step {progress.step}")
        tell(run, "train", progress.step, progress.tokens_processed, now=True)
        return progress
    tell(run, "eval", 0, 0, now=True)
    loss, progress = evaluate(run, learner, Progress(identity=run.identity))
    return msgspec.structs.replace(progress, loss_baseline=loss)


def train(
    run: Run, learner: Learner, progress: Progress, asked_to_stop: Callable[[], bool]
) -> Progress:
    """The loop. Ends after the last step, or after the step in which it was asked to stop."""
    p = run.spec.finetune
    checkpoints = Checkpoints(
        Path(run.spec.out_dir) / "checkpoints",
        lambda step: run.journal.log(f"checkpoint step-{step} written"),
        fresh=progress.step == 0,
    )
    stream = training_steps(run.split.train, p.batch_size * p.seq_len, p.seed, progress.position)
    stopping = asked_to_stop()
    while progress.step < p.steps and not stopping:
        progress = take_step(run, learner, stream, progress)
        stopping = asked_to_stop()
        at_end = progress.step == p.steps
        if progress.step % p.eval_every == 0 and not at_end and not stopping:
            tell(run, "eval", progress.step, progress.tokens_processed, now=True)
            _, progress = evaluate(run, learner, progress)
        if (progress.step % p.checkpoint_every == 0 and not at_end) or stopping:
            tensors = checkpoint.optimizer_tensors(learner.params, learner.optimizer)
            checkpoints.save(tensors, progress)
    checkpoints.close()
    return progress


def finish(run: Run, model: PeftModel, learner: Learner, progress: Progress) -> RunResult:
    """Final evaluation, export, parity gate, samples, result."""
    spec = run.spec
    model_dir = Path(spec.out_dir) / "model"
    network = learner.network
    tell(run, "eval", progress.step, progress.tokens_processed, now=True)
    loss, progress = evaluate(run, learner, progress)
    tell(run, "export", progress.step, progress.tokens_processed, now=True)
    ppl_before, ppl_after = perplexity(progress.loss_baseline), perplexity(loss)
    card = export.ADAPTER_CARD.format(
        base=spec.base_name,
        split=run.split.name,
        ppl_baseline=ppl_before,
        ppl_final=ppl_after,
        steps=spec.finetune.steps,
    )
    export.export_adapter(model, run.tokenizer, Path(spec.model_path), card, model_dir)
    trainable_count = sum(p.numel() for p in trainable(model).values())
    base_count = sum(p.numel() for p in model.parameters()) - trainable_count
    reloaded = export.reload(Path(spec.model_path), model_dir, run.device, run.dtype)
    result = RunResult(
        ppl_baseline=ppl_before,
        ppl_final=ppl_after,
        ppl_delta_pct=100 * (ppl_after / ppl_before - 1),
        loss_final=loss,
        params_before=base_count,
        params_after=base_count + trainable_count,
        params_delta=trainable_count,
        function_preservation=0.0,
        gpu_seconds=progress.gpu_seconds,
        tokens_processed=progress.tokens_processed,
        split=run.split.name,
        steps=progress.step,
        train_loss_final=progress.train_loss,
        rows_truncated=run.data.rows_truncated,
        tokens_truncated=run.data.tokens_truncated,
        device=device_name(run.device),
        parity=parity_gate(run, network, reloaded),
        samples=side_by_side(run, network, model.disable_adapter),
        lineage=lineage(run),
    )
    replace(model_dir.with_name("result.json"), result)
    run.journal.log(
        f"done · perplexity on {run.split.name}: {ppl_before:.2f} before, {ppl_after:.2f} after"
    )
    tell(run, "done", progress.step, progress.tokens_processed, now=True)
    return result
