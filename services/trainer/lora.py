"""LoRA through peft: which layers get an adapter, and what it begins with."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import Linear
from safetensors.torch import load_file

from libs.contracts.training import FinetuneParams
from services.trainer.loading import ModelError
from services.trainer.projection import ADAPTER, fuse


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


def trainable(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
