"""What a result is shown by: its files give the model that was trained, and what it says now."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from libs.contracts.results import ParityReport, Sample
from services.trainer import export
from services.trainer.batches import greedy, logits, make_batch
from services.trainer.run import Run

SAMPLES = 3
SAMPLE_TOKENS = 40
SAMPLE_PROMPT_TOKENS = 256

# Label tokens enough to tell a good export from a bad one, few enough to take no time.
PARITY_DOCUMENTS = 12

MAX_TEXT = 4000  # of a LongText


@torch.no_grad()
def held_out_logits(run: Run, network: Any) -> Tensor:
    """[labels, vocabulary] in fp32, on the first held-out rows."""
    batch = make_batch(run.split.examples[:PARITY_DOCUMENTS], run.device, run.dtype)
    return logits(network, batch)[: batch.labels].float()


def parity_gate(run: Run, network: Any, reloaded: Any) -> ParityReport:
    """Compares the model in memory with its files, ``reloaded``. Raises `ParityError`."""
    documents = run.split.examples[:PARITY_DOCUMENTS]
    trained = held_out_logits(run, network)
    parity = export.compare(trained, export.plain_logits(reloaded, documents, run.device))
    run.journal.log(
        f"export reloaded · largest logit difference {parity.max_abs_logit:.2g} · mean KL "
        f"{parity.mean_kl:.1e} · {parity.greedy_match:.1%} of greedy tokens alike"
    )
    export.check(parity, run.dtype)
    return parity


def sample_prompts(run: Run) -> list[list[int]]:
    """The beginnings of a few held-out rows: up to the first answer, or half of a plain text."""
    prompts = []
    for document in run.split.examples[:SAMPLES]:
        first = int(document.labels.argmax())
        end = first if first > 1 else max(1, len(document.tokens) // 2)
        prompts.append(document.tokens[max(0, end - SAMPLE_PROMPT_TOKENS) : end].tolist())
    return prompts


def side_by_side(
    run: Run, network: Any, untouched: Callable[[], AbstractContextManager[Any]]
) -> tuple[Sample, ...]:
    """What the base and the tuned model say to the sample prompts; the context ``untouched`` gives
    the base."""
    prompts = sample_prompts(run)

    def answers(model: Any) -> list[str]:
        stop = run.tokenizer.eos_token_id
        return text(greedy(model, prompts, SAMPLE_TOKENS, stop, run.device, run.dtype))

    def text(rows: list[list[int]]) -> list[str]:
        return [run.tokenizer.decode(row)[:MAX_TEXT] for row in rows]

    tuned = answers(network)
    with untouched() as before:
        base = answers(before)
    rows = zip(text(prompts), base, tuned, strict=True)
    return tuple(Sample(prompt=asked, base=before, tuned=after) for asked, before, after in rows)
