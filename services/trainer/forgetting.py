"""What training has cost of what the model knew: measured on text that it wrote before.

On text that a model samples from itself, the rise of the loss estimates KL(before || after); no
data set of what it once learnt is needed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from libs.contracts.results import ForgettingReport
from services.trainer.batches import mean_loss
from services.trainer.documents import Document
from services.trainer.run import Run, perplexity
from services.trainer.selfwritten import write

# Enough for a score that is right to some hundredths of a nat, few enough to take a second.
TEXTS, LENGTH = 16, 96


def measure_forgetting(
    run: Run, network: Any, untouched: Callable[[], AbstractContextManager[Any]]
) -> ForgettingReport:
    """``network`` after training, against the network that the context ``untouched`` gives."""
    seed = run.learning.seed
    with untouched() as base:
        length = min(LENGTH, getattr(base.config, "max_position_embeddings", LENGTH))
        texts: list[Document] = []
        for some in write(base, run.tokenizer, TEXTS, length, seed):
            texts += some
        before = mean_loss(base, texts, run.device, run.dtype)
    after = mean_loss(network, texts, run.device, run.dtype)
    run.journal.log(
        f"forgetting: {after - before:+.3f} nats a token on {TEXTS} texts that the model wrote "
        "before training"
    )
    return ForgettingReport(
        split=f"self-generated text ({TEXTS} rows, seed {seed})",
        ppl_before=perplexity(before),
        ppl_after=perplexity(after),
        score=after - before,
    )
