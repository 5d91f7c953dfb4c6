"""How much of a card's own matrix rate training reaches: ``just bench-gpu [NAME ...]``.

Random weights in the shapes of a 1B and an 8B Llama, LoRA and full, in packed rows of 4,096 tokens,
through the training's own kernels, batches and optimizer. The card's matrix and copy rates are
measured in the same run. Model FLOP/s (Chowdhery et al., 2204.02311, appendix B): what the model's
arithmetic takes, and nothing for what is computed twice.
"""

import gc
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from msgspec import Struct, structs
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from libs.contracts.training import FinetuneParams
from services.trainer import attention, memory
from services.trainer.batches import MICRO_TOKENS, make_batch, summed_loss
from services.trainer.documents import Document
from services.trainer.finetune import precise
from services.trainer.fusing import fuse_model
from services.trainer.kernels import LOSS_ROWS
from services.trainer.lora import add_lora, trainable
from services.trainer.memory import Shape
from services.trainer.packing import micro_batches
from services.trainer.recompute import recomputing
from services.trainer.steps import Learner, gather_gradients, round_weights
from tests.bench.figures import Figure, table

SEQ_LEN = 4096
BATCH_SIZE = 4  # rows in a step
RANK = 16
WARM_UP_STEPS, STEPS = 2, 8
GOAL = 0.5  # of the matrix rate
SIDE = 8192  # of the matrices whose product tells the card's rate
COPY_BYTES = 1 << 30
REPEATS = 20

SHAPES = {
    "1B": Shape(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=128256,
        tie_word_embeddings=True,
    ),
    "8B": Shape(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    ),
}
"""Those of Llama 3.2 1B and Llama 3.1 8B."""


class Ran(Struct, frozen=True):
    """``first_seconds`` is what the steps took that are not measured."""

    tokens_per_second: float
    peak_bytes: int
    foreseen_bytes: int
    first_seconds: float


def flops_per_token(shape: Shape, seq_len: int, rank: int | None) -> float:
    """Of one training step, for each token of a row of ``seq_len``. ``rank`` is None if every
    weight learns; else their gradients are not taken, but those of what they are applied to are.

    A product of [m, k] and [k, n] takes 2 m k n. Attention is causal: a token sees half of its row.
    """
    sizes = shape.layers.values()
    depth = shape.num_hidden_layers
    weights = depth * sum(a * b for a, b in sizes) + shape.hidden_size * shape.vocab_size
    scores = depth * 2 * (2 * shape.query_size * (seq_len + 1) / 2)
    if rank is None:
        return 3 * (2 * weights + scores)
    adapters = depth * rank * sum(a + b for a, b in sizes)
    return 2 * (2 * weights) + 3 * scores + 3 * (2 * adapters)


def seconds(work: Callable[[], object]) -> float:
    """On the card, without what the host takes to begin."""
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def matrix_rate() -> float:
    """FLOP/s of a large product in bf16."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def products() -> None:
        for _ in range(REPEATS):
            torch.mm(a, b)

    products()
    return 2 * SIDE**3 * REPEATS / seconds(products)


def copy_rate() -> float:
    """Bytes a second that are read, and as many written."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def copies() -> None:
        for _ in range(REPEATS):
            target.copy_(source)

    copies()
    return 2 * COPY_BYTES * REPEATS / seconds(copies)


def learner_of(shape: Shape, params: FinetuneParams) -> Learner:
    config: dict[str, Any] = structs.asdict(shape)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model: Any = LlamaForCausalLM(LlamaConfig(**config, max_position_embeddings=SEQ_LEN))
    torch.set_default_dtype(torch.float32)
    model.set_attn_implementation(attention.NAME)
    fuse_model(model)
    model.requires_grad_(params.method == "full").eval()
    learnt = dict(model.named_parameters())
    if params.method != "full":
        learnt = trainable(add_lora(model, params, "random"))
    weights, rounded = precise(learnt, {})
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-5, fused=True)
    return Learner(model, weights, optimizer, rounded)


def run(shape: Shape, params: FinetuneParams) -> Ran:
    """Raises `TooLittleMemory`."""
    device = torch.device("cuda")
    gc.collect()  # the model before is bound to itself by its forward passes
    torch.cuda.empty_cache()
    rng = np.random.default_rng(3)
    every = np.ones(SEQ_LEN, dtype=np.bool_)
    rows = [
        Document(n, rng.integers(0, shape.vocab_size, SEQ_LEN).astype(np.int32), every)
        for n in range(BATCH_SIZE)
    ]
    work = structs.replace(memory.work_of(shape, params), loss_rows=LOSS_ROWS["cuda"], on_card=True)
    free = memory.available(device)
    plan = memory.choose(shape, work, MICRO_TOKENS["cuda"], SEQ_LEN, 2, free)
    foreseen = memory.estimate(shape, work, plan, SEQ_LEN, 2)
    learner = learner_of(shape, params)
    torch.cuda.reset_peak_memory_stats()

    def steps(count: int) -> None:
        for _ in range(count):
            with recomputing(learner.network, plan.recompute):
                for part in micro_batches(rows, plan.micro_tokens):
                    batch = make_batch(part, device, torch.bfloat16)
                    loss = summed_loss(learner.network, batch) / (BATCH_SIZE * SEQ_LEN)
                    torch.autograd.backward(loss)
                    gather_gradients(learner)
            torch.nn.utils.clip_grad_norm_(learner.params.values(), 1.0)
            learner.optimizer.step()
            learner.optimizer.zero_grad()
            round_weights(learner)

    started = time.perf_counter()
    steps(WARM_UP_STEPS)
    torch.cuda.synchronize()
    first = time.perf_counter() - started
    took = seconds(lambda: steps(STEPS))
    rate = STEPS * BATCH_SIZE * SEQ_LEN / took
    return Ran(rate, torch.cuda.max_memory_allocated(), foreseen.total, first)


def figure(name: str, method: str, matrix: float, console: Console) -> Figure:
    """Of one shape and method. Raises `TooLittleMemory`."""
    params = FinetuneParams(
        steps=STEPS,
        learning_rate=1e-5,
        seq_len=SEQ_LEN,
        batch_size=BATCH_SIZE,
        lora_rank=RANK,
        method="lora" if method == "lora" else "full",
    )
    ran = run(SHAPES[name], params)
    rank = RANK if method == "lora" else None
    achieved = ran.tokens_per_second * flops_per_token(SHAPES[name], SEQ_LEN, rank)
    console.print(
        f"{name} {method}: {ran.tokens_per_second:,.0f} tokens/s, peak memory "
        f"{ran.peak_bytes / 1e9:.1f} GB ({ran.foreseen_bytes / 1e9:.1f} foreseen), the first "
        f"{WARM_UP_STEPS} steps in {ran.first_seconds:.0f} s"
    )
    return Figure(
        name=f"{name} {method}, {SEQ_LEN} packed",
        ours=achieved / 1e12,
        unit="TFLOP/s",
        baseline=matrix / 1e12,
        baseline_name="matrix product",
        ratio=achieved / matrix,
        goal=f">= {GOAL:g}x",
        met=achieved / matrix >= GOAL,
    )


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: these figures are about a card, and there is none here")
    console = Console(width=120)
    # As the training does (`services.trainer.train.settle`), but for what only a CPU has.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    rate = matrix_rate()
    console.print(
        f"{torch.cuda.get_device_name()} · bf16 products {rate / 1e12:.0f} TFLOP/s · copies "
        f"{copy_rate() / 1e12:.2f} TB/s · torch {torch.__version__}"
    )
    figures = []
    for name in sys.argv[1:] or SHAPES:
        for method in ("lora", "full"):
            try:
                figures.append(figure(name, method, rate, console))
            except memory.TooLittleMemory as error:
                console.print(f"{name} {method}: {error}")
    console.print(table(figures))


if __name__ == "__main__":
    main()
