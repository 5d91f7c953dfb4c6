"""How much memory a run will take, by its model's shape, before anything is loaded. Pure, but for
`available`.

What is counted is what a step holds at its peak: weights, gradients, the optimizer's two moments,
and what the backward pass needs of a micro-batch. The formulas follow our own kernels (after
Korthikanti et al., 2205.05198, section 4, who count another implementation's tensors).
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
from msgspec import Struct

from libs.contracts.training import FinetuneParams, TrainParams
from services.trainer.attention import MAX_MATMUL_WIDTH
from services.trainer.kernels import LOSS_ROWS

# Of what is free: the rest is for what is not counted here (fragments, kernels' own buffers).
USABLE = 0.9
LOW_BYTES = 2  # of a bf16 number
FULL_BYTES = 4  # of an fp32 number

# With the gradient itself, Adam keeps two moments of each weight that learns.
LEARNING_BYTES = 3 * FULL_BYTES
MEGABYTE = 1_000_000

# What is said where it ran out: main memory, the CUDA driver's, cuBLAS's.
NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class TooLittleMemory(Exception):
    """A run can't be made small enough; the text says what to change."""


class Shape(Struct, frozen=True, kw_only=True):
    """A decoder, by the names of its ``config.json``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool = False

    @property
    def query_size(self) -> int:
        return (self.head_dim or self.hidden_size // self.num_attention_heads) * (
            self.num_attention_heads
        )

    @property
    def key_size(self) -> int:
        heads = self.num_key_value_heads or self.num_attention_heads
        return self.query_size // self.num_attention_heads * heads

    @property
    def layers(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear layer of a block."""
        h, i, q, kv = self.hidden_size, self.intermediate_size, self.query_size, self.key_size
        return {
            "q_proj": (h, q),
            "k_proj": (h, kv),
            "v_proj": (h, kv),
            "o_proj": (q, h),
            "gate_proj": (h, i),
            "up_proj": (h, i),
            "down_proj": (i, h),
        }

    @property
    def block(self) -> int:
        """Parameters of one block."""
        return sum(a * b for a, b in self.layers.values()) + 2 * self.hidden_size

    @property
    def parameters(self) -> int:
        tables = 1 if self.tie_word_embeddings else 2
        table = self.vocab_size * self.hidden_size
        return tables * table + self.num_hidden_layers * self.block + self.hidden_size


class Work(Struct, frozen=True, kw_only=True):
    """``learning`` parameters are trained; ``added`` come to those of the base. ``whole_logits``:
    the objective needs every label's logits at once. ``keeps_scores``: so does attention of its
    scores, as on CPU in bf16; elsewhere its kernel computes them again. ``keeps_beginning``: what
    learns is held once more as it was, on the same device (`start.Beginning`). ``loss_rows`` of
    logits are held at once otherwise. ``on_card``: by flash attention and kernels of the card's,
    which keep less."""

    learning: int
    added: int
    adapter: bool
    whole_logits: bool = False
    keeps_scores: bool = False
    keeps_beginning: bool = False
    loss_rows: int = LOSS_ROWS["cpu"]
    on_card: bool = False


class Plan(Struct, frozen=True):
    """``micro_tokens`` go through the model at once; ``recompute``: of each block only its input is
    kept, and the block is computed again in the backward pass (Chen et al., 1604.06174)."""

    micro_tokens: int
    recompute: bool = False


class Estimate(Struct, frozen=True, kw_only=True):
    """Bytes."""

    weights: int
    learning: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.learning + self.activations


def read_shape(config: Path) -> Shape | None:
    """None if the model has no such shape; then nothing is foreseen."""
    try:
        return msgspec.json.decode(config.read_bytes(), type=Shape)
    except (OSError, msgspec.MsgspecError):
        return None


def work_of(shape: Shape, params: FinetuneParams | TrainParams) -> Work:
    """At its largest: of a model that grows, at the end."""
    depth = shape.num_hidden_layers
    match params:
        case FinetuneParams(method="full"):
            return Work(learning=shape.parameters, added=0, adapter=False)
        case FinetuneParams():
            wanted = params.target_modules or tuple(shape.layers)
            sizes = [sum(size) for name, size in shape.layers.items() if name in wanted]
            count = depth * params.lora_rank * sum(sizes)
            whole_logits = params.method == "dpo"
            return Work(learning=count, added=count, adapter=True, whole_logits=whole_logits)
        case TrainParams():
            if params.strategy == "width":
                mlp = shape.intermediate_size * shape.hidden_size * 3
                added = depth * mlp
            else:
                # The trainer stops growing at four times the depth.
                added = shape.block * min(params.cycles * params.layers_per_cycle, 3 * depth)
            whole = shape.parameters + added
            learning = whole if params.trainable == "all" else added
            return Work(learning=learning, added=added, adapter=False)


def estimate(shape: Shape, work: Work, plan: Plan, longest: int, bytes_each: int) -> Estimate:
    """``longest`` is the longest row in tokens, ``bytes_each`` the size of an activation."""
    if work.adapter:
        weights = shape.parameters * bytes_each + work.added * FULL_BYTES
        learning = work.learning * LEARNING_BYTES
    else:
        weights = (shape.parameters + work.added) * bytes_each
        learning = work.learning * LEARNING_BYTES
        if bytes_each < FULL_BYTES:
            # The weights in fp32 that the rounded ones come from, and the rounded ones' gradients.
            learning += work.learning * (FULL_BYTES + bytes_each)
    if work.keeps_beginning:
        learning += work.learning * (FULL_BYTES if work.adapter else bytes_each)
    return Estimate(
        weights=weights,
        learning=learning,
        activations=activations(shape, work, plan, longest, bytes_each),
    )


def activations(shape: Shape, work: Work, plan: Plan, longest: int, bytes_each: int) -> int:
    """What the forward pass leaves for the backward pass, and the loss on top of it."""
    h, i, q, kv = shape.hidden_size, shape.intermediate_size, shape.query_size, shape.key_size
    tokens = plan.micro_tokens
    if work.on_card:
        # What norms take and give; q, k, v rotated; attention's result; gate, up, their product.
        kept, going_back = 4 * h + 2 * q + 2 * kv + 3 * i, 3 * i  # then the widest's gradients
    else:
        # Two norms (unit vectors and result), the residual; q, k, v rotated and in tiles;
        # attention's result twice; the gate before and after its activation, up, their product.
        kept, going_back = 5 * h + 2 * (q + 2 * kv) + 2 * q + 4 * i, 0
    in_block = tokens * kept * bytes_each
    if work.keeps_scores and longest <= MAX_MATMUL_WIDTH:
        in_block += tokens * longest * shape.num_attention_heads * bytes_each
    block_input = tokens * h * bytes_each
    if plan.recompute:
        blocks = shape.num_hidden_layers * block_input + in_block
    else:
        blocks = shape.num_hidden_layers * in_block
    rows = tokens if work.whole_logits else min(tokens, work.loss_rows)
    logits = rows * shape.vocab_size * FULL_BYTES * 3
    return blocks + logits + tokens * (3 * h + going_back) * bytes_each


def candidates(micro_tokens: int, longest: int) -> Iterator[Plan]:
    """From the fastest to the smallest: a micro-batch is halved down to one row, and only then is
    anything computed twice."""
    smallest = min(micro_tokens, longest)
    sizes = [micro_tokens]
    while sizes[-1] > smallest:
        sizes.append(max(smallest, sizes[-1] // 2))
    yield from (Plan(size) for size in sizes)
    yield from (Plan(size, recompute=True) for size in sizes)


def smaller(plan: Plan, longest: int) -> Plan | None:
    """What to try when a step did not fit; None if nothing is left to try."""
    if plan.micro_tokens > longest:
        return Plan(max(longest, plan.micro_tokens // 2), plan.recompute)
    return None if plan.recompute else Plan(plan.micro_tokens, recompute=True)


def choose(
    shape: Shape, work: Work, micro_tokens: int, longest: int, bytes_each: int, free: int
) -> Plan:
    """The first of `candidates` that fits into ``free`` bytes. Raises `TooLittleMemory`."""
    found = None
    for plan in candidates(micro_tokens, longest):
        found = estimate(shape, work, plan, longest, bytes_each)
        if found.total <= free * USABLE:
            return plan
    assert found is not None
    if found.weights > free * USABLE:
        change = "choose a smaller base model"
    elif found.learning > found.activations:
        change = "lower lora_rank" if work.adapter else "choose the method lora"
    else:
        change = "lower seq_len"
    raise TooLittleMemory(
        f"out of memory: a step on one row of {longest} tokens takes some "
        f"{megabytes(found.total)} MB (weights {megabytes(found.weights)}, gradients and optimizer "
        f"{megabytes(found.learning)}, activations {megabytes(found.activations)}), and "
        f"{megabytes(free)} MB are free; {change}"
    )


def megabytes(count: int) -> str:
    return f"{count / MEGABYTE:,.0f}".replace(",", " ")


def is_out_of_memory(error: BaseException) -> bool:
    """torch has a class for what its own allocator did not find; else there is a sentence."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in NO_MEMORY)


def available(device: torch.device) -> int:
    """Bytes that this process may still take on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_free_on_machine(), _left_of_group(), _left_of_limit())


def _free_on_machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_of_group() -> int:
    """Of a container's limit (control groups, version 2)."""
    root = Path("/sys/fs/cgroup")
    try:
        limit, used = (root / "memory.max").read_text(), (root / "memory.current").read_text()
        # File pages that nobody uses are given back when memory is asked for.
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return int(limit) - int(used) + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):  # no such limit
        return 1 << 62


def _left_of_limit() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return 1 << 62
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return max(0, limit - pages * os.sysconf("SC_PAGE_SIZE"))
