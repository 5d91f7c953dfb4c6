"""A base model and its tokenizer from a local folder: safetensors only, no remote code."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.trainer import attention
from services.trainer.fusing import fuse_model

CHUNK_BYTES = 1 << 20


class ModelError(Exception):
    """The base model cannot be loaded; the text says what to change."""


def choose_device(wanted: str) -> torch.device:
    """``auto`` is CUDA where there is one."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def choose_dtype(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """``auto``: bf16 where the hardware multiplies it natively (on CPU 3 to 5 times as fast), else
    fp32."""
    if wanted != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def load_tokenizer(path: Path) -> Any:
    """Raises `ModelError`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"the tokenizer in {path.name} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{path.name} has no tokenizer.json; add a fast tokenizer to the model")
    return tokenizer


def load_base(
    path: Path, device: torch.device, dtype: torch.dtype, adapter: Path | None = None
) -> Any:
    """A frozen causal language model that attends over packed documents, with ``adapter`` (peft's
    format) merged in. Raises `ModelError`."""
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attention.NAME,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the base model in {path.name} cannot be loaded: {error}") from error
    model = model.to(device)
    if adapter is not None:
        model = merged(model, adapter)
    fuse_model(model)
    return model.requires_grad_(False).eval()


@torch.no_grad()
def merged(model: Any, adapter: Path) -> Any:
    """The model with an adapter in its weights. Raises `ModelError`."""
    try:
        tuned = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the adapter in {adapter.name} cannot be loaded: {error}") from error
    return merge(tuned)


@torch.no_grad()
def merge(tuned: PeftModel) -> Any:
    """A peft model's base with its adapter in its weights: added in fp32, rounded once."""
    layers: list[Any] = [layer for layer in tuned.modules() if isinstance(layer, Linear)]
    for layer in layers:
        weight = layer.base_layer.weight
        for name in layer.active_adapters:
            low = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float()
            weight.copy_(weight.float() + layer.scaling[name] * low)
    whole: Any = tuned
    return whole.unload()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
