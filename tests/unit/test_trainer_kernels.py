"""Our kernels give what their formulas give, and the same gradients; so do whole models."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from services.trainer import attention
from services.trainer.batches import logits, make_batch, summed_loss
from services.trainer.export import plain_logits
from services.trainer.fusing import fuse_model
from services.trainer.kernels import LOSS_ROWS, NO_TARGET, HeadLoss, RmsNorm, Rotary, signed
from services.trainer.projection import fuse, project
from tests.unit.test_trainer_packing import CPU, documents

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def both(formula: Callable[..., Tensor], kernel: Callable[..., Tensor], *inputs: Tensor) -> None:
    """The same values, and the same gradients of every input for the same gradient of the result,
    to within rounding of the largest."""
    found = []
    for function in (formula, kernel):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
        torch.autograd.backward(out, weights)
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for expected, actual in zip(*found, strict=True):
        assert expected is not None
        assert actual is not None
        assert actual.dtype == expected.dtype
        off = (actual.float() - expected.float()).abs().max() / expected.float().abs().max()
        assert off < TOLERANCE[inputs[0].dtype]


@DTYPES
def test_the_norm_is_that_of_llama(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x, w = torch.randn(7, 5, 64).to(dtype), torch.randn(64).to(dtype)

    def formula(x: Tensor, w: Tensor) -> Tensor:
        norm = LlamaRMSNorm(64, 1e-5).to(dtype)
        return torch.func.functional_call(norm, {"weight": w}, (x,))

    both(formula, lambda x, w: RmsNorm.apply(x, w, 1e-5), x, w)


@DTYPES
def test_the_rotation_is_that_of_llama(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    angles = torch.rand(11, 8).repeat(1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def formula(x: Tensor) -> Tensor:
        heads = x.transpose(0, 1)[None]
        turned, _ = apply_rotary_pos_emb(heads, heads, cos[None], sin[None])
        return turned[0].transpose(0, 1)

    both(formula, lambda x: Rotary.apply(x, cos, signed(sin)), torch.randn(11, 3, 16).to(dtype))


@DTYPES
def test_the_loss_is_cross_entropy_over_several_chunks_and_fillers(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    count = LOSS_ROWS["cpu"] * 2 + 5
    targets = torch.randint(0, 50, (count,))
    targets[-3:] = NO_TARGET

    def formula(hidden: Tensor, w: Tensor) -> Tensor:
        return cross_entropy(linear(hidden, w).float(), targets, reduction="sum")

    hidden, w = torch.randn(count, 16).to(dtype), torch.randn(50, 16).to(dtype)
    both(formula, lambda h, w: HeadLoss.apply(h, w, targets), hidden, w)


def test_a_loss_that_nothing_is_learnt_from_costs_no_gradient() -> None:
    model: Any = LlamaForCausalLM(LlamaConfig(**TINY))
    fuse_model(model)
    hidden, targets = torch.randn(7, 32), torch.randint(0, 400, (7,))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.head_loss(hidden, targets)
    assert counter.get_total_flops() == 2 * 7 * 32 * 400


@pytest.mark.parametrize("bias", [False, True])
def test_layers_with_adapters_that_share_an_input_are_what_peft_makes_of_each(bias: bool) -> None:
    torch.manual_seed(4)

    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Linear(12, 8, bias), torch.nn.Linear(12, 20, bias)

    config = LoraConfig(r=4, lora_alpha=6, target_modules=["one", "two"])
    tuned = get_peft_model(Pair(), config)  # type: ignore[arg-type]
    layers = [layer for layer in tuned.modules() if isinstance(layer, Linear)]
    learnt = [p for layer in layers for p in (layer.lora_A, layer.lora_B)]
    for part in learnt:
        torch.nn.init.normal_(part["default"].weight)
    x = torch.randn(3, 5, 12)

    def gradients() -> list[Tensor]:
        return [part["default"].weight.grad.clone() for part in learnt]

    def apart(x: Tensor) -> Tensor:
        return torch.cat([Linear.forward(layer, x) for layer in layers], -1)

    def together(x: Tensor) -> Tensor:
        return torch.cat(project(x, *layers), -1)

    both(apart, together, x)
    seen = []
    for function in (apart, together):
        tuned.zero_grad()
        torch.autograd.backward(function(x).square().sum())
        seen.append(gradients())
    for expected, actual in zip(*seen, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


def test_an_adapter_that_is_switched_off_is_not_computed() -> None:
    tuned = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(4, 4)),  # type: ignore[arg-type]
        LoraConfig(r=2, target_modules=["0"], init_lora_weights=False),
    )
    layer: Any = next(layer for layer in tuned.modules() if isinstance(layer, Linear))
    fuse(layer)
    x = torch.randn(3, 4)
    with tuned.disable_adapter():
        assert torch.equal(layer(x), layer.base_layer(x))
    assert not torch.allclose(layer(x), layer.base_layer(x))


TINY: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**TINY)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**TINY)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**TINY)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**TINY)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_as_transformers_wrote_it_with_the_same_gradients(family: str) -> None:
    torch.manual_seed(5)
    stock: Any = FAMILIES[family]().eval()
    for param in stock.parameters():  # a norm's weights of 1 would hide that they are missing
        torch.nn.init.normal_(param, 0.3, 0.2)
    ours = copy.deepcopy(stock)
    ours.set_attn_implementation(attention.NAME)
    fuse_model(ours)
    assert hasattr(ours, "head_loss")
    rows = documents(30, 9, 21)
    batch = make_batch(rows, CPU, torch.float32)
    alone = plain_logits_with_gradients(stock, rows)
    torch.testing.assert_close(logits(ours, batch)[: batch.labels], alone, rtol=1e-3, atol=1e-3)
    expected = cross_entropy(alone, batch.targets[: batch.labels], reduction="sum")
    loss = summed_loss(ours, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.autograd.backward((loss, expected))
    for (name, mine), theirs in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert mine.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=2e-3, atol=2e-3)


def plain_logits_with_gradients(model: Any, rows: list[Any]) -> Tensor:
    whole: Any = plain_logits.__wrapped__  # type: ignore[attr-defined]  # it has no gradients
    out: Tensor = whole(model, rows, CPU)
    return out


def test_a_copied_block_computes_with_its_own_weights() -> None:
    """A grown model's new blocks are copies of old ones."""
    model: Any = FAMILIES["llama"]()
    fuse_model(model)
    copied = copy.deepcopy(model.model.layers[0])
    torch.nn.init.zeros_(copied.mlp.down_proj.weight)
    x = torch.randn(1, 3, 32)
    assert copied.mlp(x).abs().max() == 0
    assert model.model.layers[0].mlp(x).abs().max() > 0
