"""The result as files, and the gate they must pass before anyone gets them."""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM

from libs.contracts.results import ParityReport
from services.trainer.documents import Document
from services.trainer.projection import ADAPTER

# The reloaded model runs stock code, so in bf16 the two differ by rounding (measured on tiny-llama:
# KL some 1e-4 nats). A lost or scrambled adapter is off by 0.1 and more.
MAX_MEAN_KL = {torch.bfloat16: 5e-3, torch.float32: 1e-5}
MIN_GREEDY_MATCH = {torch.bfloat16: 0.98, torch.float32: 0.999}

# Two tokens this close are a draw, which rounding may decide either way.
TIE_NATS = 0.1

ADAPTER_CARD = """---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
---

# A LoRA adapter for {base}

Perplexity on the {split}: {ppl_baseline:.3f} before, {ppl_final:.3f} after {steps} steps.

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained("{base}")
    model = PeftModel.from_pretrained(base, "path/of/this/folder")
    tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
"""


MODEL_CARD = """---
base_model: {base}
library_name: transformers
pipeline_tag: text-generation
---

# {title}

Perplexity on the {split}: {ppl_baseline:.3f} before, {ppl_final:.3f} after.

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")
    tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
"""


class ParityError(Exception):
    """The exported files do not give the model that was trained."""


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``target`` when all is written."""
    draft = target.with_name(f".{target.name}")
    for stale in (draft, target):
        shutil.rmtree(stale, ignore_errors=True)
    draft.mkdir()
    yield draft
    draft.rename(target)


def export_adapter(model: PeftModel, tokenizer: Any, base: Path, card: str, target: Path) -> None:
    """Writes adapter (peft's format), tokenizer, the base's ``config.json`` and a model card."""
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    config: Any = copy.copy(model.peft_config[ADAPTER])
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set has another order each time
    with whole(target) as draft:
        save_file(state, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(draft))
        tokenizer.save_pretrained(draft)
        shutil.copyfile(base / "config.json", draft / "config.json")
        (draft / "README.md").write_text(card, encoding="utf-8")


def export_model(model: Any, tokenizer: Any, card: str, target: Path) -> None:
    """Writes what `AutoModelForCausalLM` loads: weights, config, tokenizer; and a model card."""
    with whole(target) as draft:
        model.save_pretrained(draft)
        for weights in draft.glob("*.safetensors"):
            weights.chmod(0o644)  # as its other files; drafts begin private
        tokenizer.save_pretrained(draft)
        (draft / "README.md").write_text(card, encoding="utf-8")


def reload(base: Path, adapter: Path | None, device: torch.device, dtype: torch.dtype) -> Any:
    """The model as a user loads it: transformers' own attention, peft's own layers.

    ``adapter`` is None for a model that is whole by itself.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True
    )
    model = model.to(device)
    return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()


@torch.no_grad()
def plain_logits(model: Any, documents: list[Document], device: torch.device) -> Tensor:
    """[labels, vocabulary] in fp32, each document alone and unpacked."""
    parts = []
    for document in documents:
        ids = torch.from_numpy(document.tokens.astype("int64")).to(device)[None]
        at = torch.from_numpy(document.labels[1:]).to(device)
        parts.append(model(input_ids=ids, use_cache=False).logits[0, :-1][at].float())
    return torch.cat(parts)


def compare(trained: Tensor, exported: Tensor) -> ParityReport:
    """Both [labels, vocabulary] in fp32. Greedy tokens match if both models would say them or,
    to within `TIE_NATS`, might as well."""
    p, q = trained.log_softmax(-1), exported.log_softmax(-1)
    chosen = p.gather(-1, q.argmax(-1, keepdim=True))[:, 0]
    return ParityReport(
        max_abs_logit=(trained - exported).abs().max().item(),
        mean_kl=kl_div(q, p, log_target=True, reduction="batchmean").clamp(min=0).item(),
        greedy_match=(p.amax(-1) - chosen <= TIE_NATS).float().mean().item(),
    )


def check(parity: ParityReport, dtype: torch.dtype) -> None:
    """Raises `ParityError` if the export is not the model; NaN is not."""
    kl_fine = parity.mean_kl <= MAX_MEAN_KL[dtype]
    if not (kl_fine and parity.greedy_match >= MIN_GREEDY_MATCH[dtype]):
        raise ParityError(
            f"the exported model, reloaded, differs from the trained model (mean KL "
            f"{parity.mean_kl:.2g} nats, {parity.greedy_match:.1%} of tokens alike); run the job "
            "again, and report it if it happens twice"
        )
