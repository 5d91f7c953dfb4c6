"""Memory is foreseen from a model's shape, and what is foreseen is near what is then held."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from libs.contracts.training import FinetuneParams, TrainParams
from services.trainer import attention
from services.trainer.batches import make_batch, summed_loss
from services.trainer.fusing import fuse_model
from services.trainer.kernels import LOSS_ROWS
from services.trainer.memory import (
    Plan,
    Shape,
    TooLittleMemory,
    activations,
    available,
    candidates,
    choose,
    estimate,
    is_out_of_memory,
    read_shape,
    smaller,
    work_of,
)
from services.trainer.projection import fuse
from services.trainer.recompute import recomputing
from tests.unit.test_trainer_packing import CPU, documents

GIGABYTE = 10**9
LLAMA_1B = Shape(
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    vocab_size=128256,
    tie_word_embeddings=True,
)
LLAMA_8B = Shape(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128256,
)
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "tie_word_embeddings": True,
}
LORA = FinetuneParams(steps=1, learning_rate=1e-3, seq_len=4096, batch_size=4, lora_rank=16)
FULL = FinetuneParams(steps=1, learning_rate=1e-3, seq_len=4096, batch_size=4, method="full")


def test_parameters_are_those_of_the_model() -> None:
    assert LLAMA_8B.parameters == 8_030_261_248  # Llama 3 8B, as published
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    assert Shape(**SMALL).parameters == sum(p.numel() for p in model.parameters())


def test_what_learns_is_what_the_job_trains() -> None:
    shape = Shape(**SMALL)
    tuned = get_peft_model(
        LlamaForCausalLM(LlamaConfig(**SMALL)), LoraConfig(r=16, target_modules="all-linear")
    )
    learnt = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    assert work_of(shape, LORA).learning == work_of(shape, LORA).added == learnt
    assert work_of(shape, FULL).learning == shape.parameters
    grow = TrainParams(learning_rate=1e-3, batch_size=4, cycles=2)
    assert work_of(shape, grow).learning == 2 * shape.block
    everything = TrainParams(learning_rate=1e-3, batch_size=4, cycles=2, trainable="all")
    assert work_of(shape, everything).learning == shape.parameters + 2 * shape.block


def held(model: Any, tokens: int, dtype: torch.dtype, recompute: bool) -> int:
    """Bytes that a forward pass keeps for the backward pass, each tensor's memory once."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = documents(*[64] * (tokens // 64), vocabulary=300)
    with (
        recomputing(model, recompute),
        torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
    ):
        loss = summed_loss(model, make_batch(rows, CPU, dtype))
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_activations_foreseen_are_near_those_that_a_step_holds(
    dtype: torch.dtype, recompute: bool
) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).to(dtype).requires_grad_(False)
    model.set_attn_implementation(attention.NAME)
    fuse_model(model)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for layer in tuned.modules():
        if isinstance(layer, Linear):
            fuse(layer)
    tokens = 2048
    shape = Shape(**SMALL)
    work = structs.replace(work_of(shape, LORA), keeps_scores=dtype == torch.bfloat16)
    foreseen = activations(shape, work, Plan(tokens, recompute), 64, dtype.itemsize)
    foreseen -= 256 * shape.vocab_size * 4 * 3  # the loss holds that while it runs, and saves none
    if recompute:
        # One block at a time is computed again; the forward pass, which is looked at, keeps none.
        fewer = structs.replace(shape, num_hidden_layers=shape.num_hidden_layers - 1)
        kept = [activations(s, work, Plan(tokens), 64, dtype.itemsize) for s in (shape, fewer)]
        foreseen -= kept[0] - kept[1]
    actual = held(tuned.get_base_model(), tokens, dtype, recompute)
    assert 0.95 < foreseen / actual < 1.4


def test_less_is_tried_in_this_order_halves_down_to_one_row_then_everything_twice() -> None:
    sizes = [4096, 2048, 1024, 600]
    assert list(candidates(4096, 600)) == [
        *(Plan(size) for size in sizes),
        *(Plan(size, recompute=True) for size in sizes),
    ]
    plan: Plan | None = Plan(4096)
    tried = []
    while plan is not None:
        tried.append(plan)
        plan = smaller(plan, 600)
    assert tried == [*(Plan(size) for size in sizes), Plan(600, recompute=True)]


def test_a_large_card_takes_all_at_once_and_a_small_one_less_or_everything_twice() -> None:
    work = work_of(LLAMA_8B, LORA)

    def plan(gigabytes: int) -> Plan:
        return choose(LLAMA_8B, work, 16384, 4096, 2, gigabytes * GIGABYTE)

    assert plan(140) == Plan(16384)
    assert plan(48).micro_tokens < 16384
    assert not plan(48).recompute
    assert plan(24).recompute


@pytest.mark.parametrize(
    ("params", "gigabytes", "change"),
    [
        (LORA, 12, "choose a smaller base model"),
        (FULL, 80, "choose the method lora"),
        (
            structs.replace(LORA, lora_rank=512),
            24,
            "lower lora_rank",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_the_numbers_and_what_to_change(
    params: FinetuneParams, gigabytes: int, change: str
) -> None:
    work = work_of(LLAMA_8B, params)
    with pytest.raises(TooLittleMemory) as refused:
        choose(LLAMA_8B, work, 4096, 4096, 2, gigabytes * GIGABYTE)
    assert change in str(refused.value)
    assert f"{gigabytes} 000 MB are free" in str(refused.value)


def test_a_row_that_is_too_long_is_named() -> None:
    work = work_of(LLAMA_8B, LORA)
    with pytest.raises(TooLittleMemory, match="lower seq_len"):
        choose(LLAMA_8B, work, 131072, 131072, 2, 24 * GIGABYTE)


def test_full_training_in_bf16_holds_twenty_bytes_a_weight() -> None:
    """Weights and their gradients in bf16; weights, gradients and two moments in fp32."""
    found = estimate(LLAMA_8B, work_of(LLAMA_8B, FULL), Plan(64), 64, 2)
    assert found.weights + found.learning == LLAMA_8B.parameters * 20


def test_what_the_model_was_is_held_once_more_where_its_device_is_main_memory() -> None:
    shape = Shape(**SMALL)

    def learning(params: FinetuneParams, *, kept: bool) -> int:
        work = structs.replace(work_of(shape, params), keeps_beginning=kept)
        return estimate(shape, work, Plan(64), 64, 2).learning

    # As `Beginning` has it: a whole model in bf16, an adapter in fp32.
    assert learning(FULL, kept=True) - learning(FULL, kept=False) == 2 * shape.parameters
    adapter = work_of(shape, LORA).learning
    assert learning(LORA, kept=True) - learning(LORA, kept=False) == 4 * adapter


def test_a_config_of_another_kind_is_no_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"n_embd": 768}))
    assert read_shape(tmp_path / "config.json") is None


def test_free_memory_is_some_of_the_machines() -> None:
    assert 10**7 < available(CPU) < 10**14


@pytest.mark.parametrize(
    ("shape", "params", "gigabytes"),
    [(LLAMA_1B, LORA, 23.9), (LLAMA_1B, FULL, 42.7), (LLAMA_8B, LORA, 91.5)],
    ids=["1B lora", "1B full", "8B lora"],
)
def test_what_is_foreseen_on_a_card_is_a_little_above_what_an_h200_showed(
    shape: Shape, params: FinetuneParams, gigabytes: float
) -> None:
    """The peaks that `just bench-gpu` read, of 16,384 tokens at once."""
    work = structs.replace(work_of(shape, params), loss_rows=LOSS_ROWS["cuda"], on_card=True)
    foreseen = estimate(shape, work, Plan(16384), 4096, 2).total / GIGABYTE
    assert gigabytes <= foreseen < 1.2 * gigabytes


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_memory_that_ran_out_is_known_by_what_is_said_of_it(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))
