"""Lets a decoder of a known family compute with our kernels; any other stays as it is.

Modules keep their classes, names and weights: only how an instance goes forward is replaced, so
that files, hooks and adapters see the model that transformers made. Bound methods, because a deep
copy of a module binds them to the copy.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from services.trainer.attention import Layout, attend_packed
from services.trainer.kernels import HeadLoss, RmsNorm, Rotary, SwiGlu, of_card, rotated, signed
from services.trainer.projection import project

# Families whose blocks are exactly: norm, q/k/v, rotary in halves, attention, o; norm, SwiGLU.
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")


def fuse_model(model: torch.nn.Module) -> None:
    """Replaces the forward passes of the norms, attentions and MLPs that it knows."""
    family = next((f for f in FAMILIES if type(model).__name__ == f"{f}ForCausalLM"), None)
    if family is None:
        return
    silu = getattr(model.config, "hidden_act", None) == "silu"
    for module in model.modules():
        replacement = {
            f"{family}RMSNorm": norm_forward,
            f"{family}Attention": attention_forward,
            f"{family}MLP": mlp_forward if silu else None,
        }.get(type(module).__name__)
        if replacement:
            module.forward = MethodType(replacement, module)
    model.head_loss = MethodType(head_loss, model)  # type: ignore[assignment]


def is_fused(model: Any) -> bool:
    """Whether it is of a family that `fuse_model` knows, and has been there."""
    return hasattr(model, "head_loss")


def norm_forward(self: Any, x: Tensor) -> Tensor:
    if x.device.type == "cuda" or torch.compiler.is_compiling():
        return rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)
    out: Tensor = RmsNorm.apply(x, self.weight, self.variance_epsilon)
    return out


def attention_forward(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    *,
    packed: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """``hidden_states`` [1, tokens, size], packed. A batch of another kind (text that the model
    writes, with a cache) goes the class's own way."""
    if packed is None:
        stock: tuple[Tensor, Tensor | None] = type(self).forward(
            self, hidden_states, position_embeddings, attention_mask, **others
        )
        return stock
    tokens = hidden_states.shape[1]
    parts = project(hidden_states[0], self.q_proj, self.k_proj, self.v_proj)
    q, k, v = (part.view(tokens, -1, self.head_dim) for part in parts)
    if hasattr(self, "q_norm"):
        q, k = self.q_norm(q), self.k_norm(k)
    cos, sin = (part[0] for part in position_embeddings)
    sin = signed(sin)
    if torch.compiler.is_compiling():
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    else:
        q, k = Rotary.apply(q, cos, sin), Rotary.apply(k, cos, sin)
    window = getattr(self, "sliding_window", getattr(self.config, "sliding_window", None))
    # In a compiled block: the same function, which the compiler is told to leave alone.
    attend = getattr(self, "attend", attend_packed)
    out = attend(q, k, v, packed, self.scaling, window)
    return self.o_proj(out.reshape(1, tokens, -1)), None


def mlp_forward(self: Any, x: Tensor) -> Tensor:
    gate, up = project(x, self.gate_proj, self.up_proj)
    if not torch.compiler.is_compiling() and of_card(x):
        product = SwiGlu.apply(gate, up)
    else:
        product = self.act_fn(gate) * up
    out: Tensor = self.down_proj(product)
    return out


def head_loss(self: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy of what the model says after ``hidden`` [n, size]."""
    w = self.lm_head.weight
    if not torch.is_grad_enabled():  # of which a function knows nothing, and would prepare for it
        hidden, w = hidden.detach(), w.detach()
    loss: Tensor = HeadLoss.apply(hidden, w, targets)
    return loss
