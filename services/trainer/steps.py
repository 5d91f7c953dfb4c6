"""Optimizer steps and evaluations, whatever it is that learns."""

import math
import time
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from services.trainer import parallel
from services.trainer.checkpoint import Progress
from services.trainer.compiling import Compiled, compile_blocks, compiled, is_worth_it
from services.trainer.fusing import is_fused
from services.trainer.kernels import has_kernels
from services.trainer.memory import Plan, TooLittleMemory, is_out_of_memory, smaller
from services.trainer.objective import NextToken, Objective
from services.trainer.packing import Packable, Position, micro_batches
from services.trainer.recompute import recomputing
from services.trainer.run import Run, perplexity, record, spaced, tell
from services.trainer.schedule import cosine
from services.trainer.sharding import Owners, is_mine, spread

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
    ``compiled`` are the network's blocks for training steps, in a long run. With ``owners``, this
    process steps only its own of the ``params``, and has no other.
    """

    network: Any
    params: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    rounded: dict[str, torch.nn.Parameter]
    objective: Objective[Any] = NextToken()
    compiled: Compiled | None = None
    owners: Owners = MappingProxyType({})


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
    plan, total = whole_gradient(run, learner, documents, plan_of(run, progress))
    loss, norm = apply_gradient(run, learner, total)
    seconds = time.perf_counter() - started
    tokens = sum(row.size for row in documents)
    progress = msgspec.structs.replace(
        progress,
        step=progress.step + 1,
        position=position,
        tokens_processed=progress.tokens_processed + tokens,
        gpu_seconds=progress.gpu_seconds + seconds,
        train_loss=loss,
        micro_tokens=plan.micro_tokens,
        recompute=plan.recompute,
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


def plan_of(run: Run, progress: Progress) -> Plan:
    """How large a micro-batch is: as it was in the last step, or as was foreseen."""
    if progress.micro_tokens:
        return Plan(progress.micro_tokens, progress.recompute)
    return run.plan


def whole_gradient(run: Run, learner: Learner, rows: list[Any], plan: Plan) -> tuple[Plan, Tensor]:
    """(the plan it took, the mean loss), and the gradient of all rows, of all processes'.

    When memory runs out, it begins again with less at once. Raises `TooLittleMemory`.
    """
    mine = parallel.my_share(rows)
    longest = max(row.size for row in rows)
    while True:
        failed, total = try_gradient(run, learner, mine, learner.objective.weight(rows), plan)
        # All or none: they share the step, and what Progress says of it.
        if not parallel.anyone(failed is not None):
            parallel.add_up(learner.params.values(), total)
            return plan, total
        give_up_gradients(run, learner)
        less = smaller(plan, longest)
        if less is None:
            raise TooLittleMemory(
                f"out of memory: even one row of {longest} tokens at a time does not fit, with "
                f"everything computed twice; lower seq_len ({failed})"
            )
        how = ", and computes every block twice" if less.recompute else ""
        run.journal.log(
            f"memory ran out at {plan.micro_tokens} tokens at once; goes on with "
            f"{less.micro_tokens}{how}"
        )
        plan = less


def try_gradient(
    run: Run, learner: Learner, rows: list[Any], weight: int, plan: Plan
) -> tuple[str | None, Tensor]:
    """(why memory did not suffice, the rows' part of the mean loss). Its frames hold what a step
    holds, so nothing of them outlives it."""
    total = torch.zeros((), device=run.device)
    try:
        # A block that is computed twice is not compiled: then memory counts, and time does not.
        faster = None if plan.recompute else learner.compiled
        with recomputing(learner.network, plan.recompute), compiled(faster):
            for part in micro_batches(rows, plan.micro_tokens):
                summed = learner.objective.summed(learner.network, part, run.device, run.dtype)
                loss = summed / weight
                torch.autograd.backward(loss)
                gather_gradients(learner)
                total += loss.detach()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return str(error).splitlines()[0] if str(error) else "MemoryError", total
    return None, total


def compile_if_worth(
    run: Run, learner: Learner, rows: list[Any], progress: Progress
) -> tuple[Learner, Progress]:
    """Compiles a long run's blocks, with a step on ``rows`` that is not taken. A run that goes on
    does as it did before. Where there is no compiler, it says so and goes without."""
    parameters = sum(param.numel() for param in learner.network.parameters())
    worth = is_worth_it(run.learning, parameters, run.device.type, run.spec.threads)
    if has_kernels(run.device) and is_fused(learner.network):
        # They leave a compiler nothing to win (measured on an H200, of 1B and 8B models: from 6 %
        # slower to 1 % faster).
        worth = False
    if progress.micro_tokens:  # not the first attempt
        worth = progress.compiled
    if not worth:
        return learner, progress
    started = time.perf_counter()
    faster = learner._replace(compiled=compile_blocks(learner.network))
    trial = next(micro_batches(rows, plan_of(run, progress).micro_tokens))
    try:
        failed, _ = try_gradient(run, faster, trial, 1, plan_of(run, progress))
    except Exception as error:  # whatever a compiler dies of, training can do without
        failed = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    give_up_gradients(run, learner)
    seconds = time.perf_counter() - started
    if failed:
        run.journal.log(f"not compiled, training goes on without: {failed}")
        return learner, msgspec.structs.replace(progress, compiled=False)
    run.journal.log(f"compiled for {run.steps} steps, in {seconds:.0f} s")
    spent = progress.gpu_seconds + seconds
    return faster, msgspec.structs.replace(progress, compiled=True, gpu_seconds=spent)


def give_up_gradients(run: Run, learner: Learner) -> None:
    for weight in (*learner.params.values(), *learner.rounded.values()):
        weight.grad = None
    if run.device.type == "cuda":
        torch.cuda.empty_cache()


def apply_gradient(run: Run, learner: Learner, total: Tensor) -> tuple[float, float]:
    """One step; gives (mean loss, gradient norm before clipping). Raises `DivergedError`.

    The values are read once, after everything is under way.
    """
    norm = torch.nn.utils.clip_grad_norm_(learner.params.values(), run.learning.max_grad_norm)
    learner.optimizer.step()
    for param in learner.params.values():
        param.grad = None
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
    """Lets the network compute with the weights as they are now, wherever they were stepped."""
    for name, weight in learner.rounded.items():
        if is_mine(name, learner.owners):
            weight.copy_(learner.params[name])
    spread(learner.rounded or learner.params, learner.owners)


@torch.no_grad()
def mean_loss(
    run: Run,
    objective: Objective[Any],
    network: Any,
    rows: Sequence[Packable],
    micro_tokens: int,
) -> float:
    """The objective over ``rows``, a micro-batch at a time."""
    total = torch.zeros((), dtype=torch.float64, device=run.device)
    for part in micro_batches(rows, micro_tokens):
        total += objective.summed(network, part, run.device, run.dtype)
    return total.item() / objective.weight(rows)


def evaluate(
    run: Run, learner: Learner, progress: Progress, cycle: int = 0
) -> tuple[float, Progress]:
    """Mean loss on the held-out rows; its time is on the account. Raises `DivergedError`."""
    started = time.perf_counter()
    micro_tokens = plan_of(run, progress).micro_tokens
    loss = mean_loss(run, learner.objective, learner.network, run.split.validation, micro_tokens)
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
