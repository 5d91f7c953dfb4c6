"""LoRA through peft, with one fused forward and backward per layer.

peft's own forward runs the low-rank branch in the adapter's precision and adds it in separate
passes over memory. This one computes in the activations' precision and accumulates in place; the
adapter itself stays in fp32, as peft made it.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import Linear
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear

from libs.contracts.training import FinetuneParams
from services.trainer.loading import ModelError

ADAPTER = "default"


class FusedLora(torch.autograd.Function):
    """``x W^T + s (x A^T) B^T`` for x [..., in], W [out, in] frozen, A [r, in], B [out, r]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        inner = flat @ low_a.t()
        out = flat @ w.t() if bias is None else torch.addmm(bias, flat, w.t())
        out.addmm_(inner, low_b.t(), alpha=s)
        ctx.save_for_backward(flat, w, low_a, low_b, inner)
        ctx.scaling, ctx.shape = s, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, w, low_a, low_b, inner = ctx.saved_tensors
        grad = grads[0].reshape(-1, w.shape[0])
        grad_inner = (grad @ low_b).mul_(ctx.scaling)
        grad_b = (grad.t() @ inner).float().mul_(ctx.scaling)
        grad_a = (grad_inner.t() @ flat).float()
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ w).addmm_(grad_inner, low_a).view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None


def add_lora(
    model: torch.nn.Module, params: FinetuneParams, base_name: str, start: Path | None = None
) -> PeftModel:
    """Adds a trainable fp32 adapter to the linear layers that are asked for: one that changes
    nothing yet, or that in the folder ``start``, which must have the same shape.

    The adapter's first values come from torch's global generator: seed it before. Raises
    `ModelError`.
    """
    config = LoraConfig(
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,  # type: ignore[arg-type]  # a float is as good
        target_modules=list(params.target_modules) if params.target_modules else "all-linear",
        use_rslora=params.use_rslora,
        task_type="CAUSAL_LM",
    )
    try:
        tuned = get_peft_model(model, config)
    except ValueError as error:  # no such layers
        raise ModelError(f"target_modules: {error}") from error
    if start is not None:
        begin_with(tuned, start)
    # peft puts the folder's path here, which means nothing on another machine.
    tuned.peft_config[ADAPTER].base_model_name_or_path = base_name
    for layer in tuned.modules():
        if isinstance(layer, Linear):
            fuse(layer)
    return tuned


def begin_with(tuned: PeftModel, start: Path) -> None:
    """Gives the new adapter the values of an earlier one. Raises `ModelError`."""
    try:
        earlier: Any = LoraConfig.from_pretrained(str(start))
        values = load_file(start / "adapter_model.safetensors")
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"the adapter to begin with cannot be loaded: {error}") from error
    mine: Any = tuned.peft_config[ADAPTER]
    for name, field in (("lora_rank", "r"), ("lora_alpha", "lora_alpha"), ("use_rslora",) * 2):
        ours, theirs = getattr(mine, field), getattr(earlier, field)
        if ours != theirs:
            raise ModelError(
                f"the adapter to begin with has {name} {theirs}, and the job {ours}; ask for "
                f"{theirs}, or tune a merged model"
            )
    if set(mine.target_modules) != set(earlier.target_modules):
        raise ModelError(
            "the adapter to begin with has other layers than the job asks for; set target_modules "
            f"to {', '.join(sorted(earlier.target_modules))}"
        )
    set_peft_model_state_dict(tuned, values)


def fuse(layer: Linear) -> None:
    base: Any = layer.base_layer
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    scaling = layer.scaling[ADAPTER]

    def forward(x: Tensor) -> Tensor:
        if layer.disable_adapters:
            return linear(x, base.weight, base.bias)
        out: Tensor = FusedLora.apply(x, base.weight, base.bias, a, b, scaling)
        return out

    layer.forward = forward  # type: ignore[method-assign]


def trainable(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
