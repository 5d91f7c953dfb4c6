"""Optimizer steps and evaluations, whatever it is that learns."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import torch

from services.trainer.batches import MICRO_TOKENS
from services.trainer.checkpoint import Progress
from services.trainer.objective import NextToken, Objective
from services.trainer.packing import Packable, Position, micro_batches
from services.trainer.run import Run, perplexity, record, spaced, tell
from services.trainer.schedule import cosine

# A log is read by people: about this many lines about steps, however long the run.
STEP_LINES = 40

# Worse than untuned by this much, on the held-out rows and on those it trains on: not overfitting
# but ruin, and more steps at this rate only cost money.
DIVERGED_NATS = 1.0


class DivergedError(Exception):
    """The loss is no longer a number, or the model is worse than it was."""


class Learner(NamedTuple):
    """``network`` computes logits; ``optimizer`` changes ``params``, which are fp32.

    ``rounded`` are the network's own weights where it computes in less than fp32: an update too
    small for bf16 is kept in ``params`` until it adds up. Empty where ``network`` uses ``params``.
    """

    network: Any
    params: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    rounded: dict[str, torch.nn.Parameter]
    objective: Objective[Any] = NextToken()


def rate(run: Run, step: int) -> float:
    """The learning rate of the step after ``step`` steps."""
    p = run.learning
    return p.learning_rate * cosine(step, run.steps, p.warmup_ratio)


def take_step(
    run: Run,
    learner: Learner,
    stream: Iterator[tuple[list[Any], Position]],
    progress: Progress,
    cycle: int = 0,
) -> Progress:
    """One optimizer step on the stream's next documents, with all that is told about it.

    Raises `DivergedError`.
    """
    documents, position = next(stream)
    lr = rate(run, progress.step)
    for group in learner.optimizer.param_groups:
        group["lr"] = lr
    started = time.perf_counter()
    loss, norm = optimizer_step(run, learner, documents)
    seconds = time.perf_counter() - started
    tokens = sum(row.size for row in documents)
    progress = msgspec.structs.replace(
        progress,
        step=progress.step + 1,
        position=position,
        tokens_processed=progress.tokens_processed + tokens,
        gpu_seconds=progress.gpu_seconds + seconds,
        train_loss=loss,
    )
    record(
        run,
        "train",
        step=progress.step,
        cycle=cycle,
        loss=loss,
        lr=lr,
        throughput=tokens / seconds,
        grad_norm=norm,
    )
    if progress.step % max(1, run.steps // STEP_LINES) == 0 or progress.step in (1, run.steps):
        run.journal.log(
            f"step {progress.step}/{run.steps} · loss {loss:.3f} · lr {lr:.1e} · "
            f"{spaced(round(tokens / seconds))} tok/s"
        )
    tell(run, "train", progress.step, progress.tokens_processed)
    return progress


def optimizer_step(run: Run, learner: Learner, rows: list[Any]) -> tuple[float, float]:
    """One step; gives (mean loss, gradient norm before clipping).

    The values are read once, after everything is under way.
    """
    weight = learner.objective.weight(rows)
    total = torch.zeros((), device=run.device)
    for part in micro_batches(rows, MICRO_TOKENS[run.device.type]):
        loss = learner.objective.summed(learner.network, part, run.device, run.dtype) / weight
        torch.autograd.backward(loss)
        gather_gradients(learner)
        total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(learner.params.values(), run.learning.max_grad_norm)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    round_weights(learner)
    loss_value, norm_value = torch.stack((total, norm)).tolist()
    if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
        raise DivergedError(
            f"the loss became {loss_value} (gradient norm {norm_value}); lower learning_rate, "
            f"now {run.learning.learning_rate:g}"
        )
    return loss_value, norm_value


def gather_gradients(learner: Learner) -> None:
    """Adds the gradients of the rounded weights to those of the weights, in fp32."""
    for name, weight in learner.rounded.items():
        if weight.grad is None:
            continue
        param = learner.params[name]
        if param.grad is None:
            param.grad = weight.grad.to(param.dtype, copy=True)
        else:
            param.grad += weight.grad
        weight.grad = None


@torch.no_grad()
def round_weights(learner: Learner) -> None:
    """Lets the network compute with the weights as they are now."""
    for name, weight in learner.rounded.items():
        weight.copy_(learner.params[name])


@torch.no_grad()
def mean_loss(run: Run, objective: Objective[Any], network: Any, rows: Sequence[Packable]) -> float:
    """The objective over ``rows``, a micro-batch at a time."""
    total = torch.zeros((), dtype=torch.float64, device=run.device)
    for part in micro_batches(rows, MICRO_TOKENS[run.device.type]):
        total += objective.summed(network, part, run.device, run.dtype)
    return total.item() / objective.weight(rows)


def evaluate(
    run: Run, learner: Learner, progress: Progress, cycle: int = 0
) -> tuple[float, Progress]:
    """Mean loss on the held-out rows; its time is on the account. Raises `DivergedError`."""
    started = time.perf_counter()
    loss = mean_loss(run, learner.objective, learner.network, run.split.validation)
    seconds = time.perf_counter() - started
    if not math.isfinite(loss):
        raise DivergedError(f"the held-out loss became {loss}; lower learning_rate")
    tokens = sum(row.size for row in run.split.validation)
    record(
        run,
        "eval",
        step=progress.step,
        cycle=cycle,
        loss=loss,
        lr=rate(run, progress.step),
        throughput=tokens / seconds,
    )
    run.journal.log(
        f"eval at step {progress.step}/{run.steps} · {run.split.name} · loss {loss:.3f}"
        + (f" · perplexity {perplexity(loss):.2f}" if learner.objective.of_tokens else "")
    )
    if progress.step and min(loss, progress.train_loss) > progress.loss_baseline + DIVERGED_NATS:
        raise DivergedError(
            f"at step {progress.step} the held-out loss is {loss:.2f}, and it was "
            f"{progress.loss_baseline:.2f} before tuning; lower learning_rate, now "
            f"{run.learning.learning_rate:g}"
        )
    spent = msgspec.structs.replace(progress, gpu_seconds=progress.gpu_seconds + seconds)
    return loss, spent
