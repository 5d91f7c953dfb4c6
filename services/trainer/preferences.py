"""Preferences: pairs of answers as tokens, and the loss that learns from them.

Direct preference optimisation (Rafailov et al., 2305.18290): the model that training begins with is
the reference, and its log-probabilities are computed once, before anything is learnt.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from libs.contracts.results import PreferenceReport
from services.trainer.batches import logits, make_batch
from services.trainer.documents import Answer, Document, Documents, tokenise, truncate
from services.trainer.kernels import NO_TARGET
from services.trainer.packing import Position, micro_batches, training_steps
from services.trainer.rows import DatasetError, Preference, raise_if_any, read_rows


class Pair(NamedTuple):
    """One row: two answers to the same prompt."""

    line: int
    chosen: Document
    rejected: Document

    @property
    def size(self) -> int:
        return self.chosen.size + self.rejected.size

    @property
    def fingerprint(self) -> bytes:
        return self.chosen.fingerprint + b"|" + self.rejected.fingerprint

    @property
    def example(self) -> Document:
        return self.chosen


def load_pairs(path: Path, tokenizer: Any, max_tokens: int) -> Documents[Pair]:
    """Reads, renders, tokenises and truncates preferences.

    An answer that is longer than ``max_tokens`` with its prompt loses its end; if nothing of it is
    left, the row does not count. Raises `DatasetError` naming lines.
    """
    kept: list[Pair] = []
    errors: list[str] = []
    rows_truncated = tokens_truncated = 0
    for pair in _paired(tokenise(_answers(path), tokenizer, errors)):
        if min(pair.chosen.label_count, pair.rejected.label_count) == 0:
            errors.append(f"line {pair.line}: an answer has no token to learn from; is it empty?")
            continue
        if pair.chosen.fingerprint == pair.rejected.fingerprint:
            errors.append(f"line {pair.line}: chosen and rejected are the same; remove the row")
            continue
        cut = Pair(
            pair.line, truncate(pair.chosen, max_tokens), truncate(pair.rejected, max_tokens)
        )
        fits = min(cut.chosen.label_count, cut.rejected.label_count) > 0
        if fits:
            kept.append(cut)
        lost = pair.size - (cut.size if fits else 0)
        rows_truncated += lost > 0
        tokens_truncated += lost
    raise_if_any(errors)
    if not kept:
        raise DatasetError(f"no row has both answers within {max_tokens} tokens; raise seq_len")
    return Documents(kept, rows_truncated, tokens_truncated)


def _answers(path: Path) -> Iterator[tuple[int, Answer]]:
    for line, row in read_rows(path):
        if not isinstance(row, Preference):
            raise DatasetError(
                f"line {line}: the method dpo needs rows with prompt, chosen and rejected; choose "
                "another method for rows with one answer each"
            )
        yield line, Answer(row.prompt, row.chosen)
        yield line, Answer(row.prompt, row.rejected)


def _paired(documents: Iterator[Document]) -> Iterator[Pair]:
    """Joins neighbours of one line; a row of which one answer could not be rendered is left out,
    and is in the errors already."""
    before: Document | None = None
    for document in documents:
        if before is not None and before.line == document.line:
            yield Pair(document.line, before, document)
            before = None
        else:
            before = document


class PairObjective:
    """-log sigmoid(beta x margin) of each pair; ``reference`` has by fingerprint the
    log-probabilities (nats, summed over the answer) of chosen and rejected under the reference."""

    of_tokens = False

    def __init__(self, beta: float, reference: Mapping[bytes, tuple[float, float]]) -> None:
        self._beta = beta
        self._reference = reference

    def weight(self, rows: Sequence[Pair]) -> int:
        return len(rows)

    def summed(
        self, network: Any, rows: Sequence[Pair], device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        return -logsigmoid(self.rewards(network, rows, device, dtype)).sum()

    def rewards(
        self, network: Any, rows: Sequence[Pair], device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """[pairs]: by how much the implicit reward of the chosen answer is the higher, in nats."""
        now = log_probabilities(network, rows, device, dtype)
        before = torch.tensor([self._reference[row.fingerprint] for row in rows], device=device)
        gained = now - before
        return self._beta * (gained[:, 0] - gained[:, 1])


def log_probabilities(
    network: Any, rows: Sequence[Pair], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """[pairs, 2] in fp32, nats: of the chosen and the rejected answer, summed over its tokens."""
    documents = [document for row in rows for document in (row.chosen, row.rejected)]
    batch = make_batch(documents, device, dtype)
    said = logits(network, batch).float()
    token = -cross_entropy(said, batch.targets, ignore_index=NO_TARGET, reduction="none")
    owner = np.repeat(np.arange(len(documents)), [d.label_count for d in documents])
    index = torch.from_numpy(owner).to(device)
    sums = torch.zeros(len(documents), device=device)
    return sums.index_add(0, index, token[: batch.labels]).view(-1, 2)


@torch.no_grad()
def reference_of(
    network: Any,
    rows: Sequence[Pair],
    micro_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[bytes, tuple[float, float]]:
    """What ``network`` says to the rows, by their fingerprints."""
    found: dict[bytes, tuple[float, float]] = {}
    for part in micro_batches(rows, micro_tokens):
        said = log_probabilities(network, part, device, dtype).tolist()
        found |= {row.fingerprint: (a, b) for row, (a, b) in zip(part, said, strict=True)}
    return found


def rows_of_steps(rows: list[Pair], budget: int, seed: int, steps: int) -> list[Pair]:
    """The rows that so many steps will see, each once."""
    seen: dict[bytes, Pair] = {}
    distinct = len({row.fingerprint for row in rows})
    stream = training_steps(rows, budget, seed, Position())
    for step_rows, _ in (next(stream) for _ in range(steps)):
        seen |= {row.fingerprint: row for row in step_rows}
        if len(seen) == distinct:
            break
    return list(seen.values())


@torch.no_grad()
def measure(
    objective: PairObjective,
    network: Any,
    rows: Sequence[Pair],
    micro_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
) -> PreferenceReport:
    """How the model prefers on ``rows``."""
    parts = micro_batches(rows, micro_tokens)
    margins = torch.cat([objective.rewards(network, part, device, dtype) for part in parts])
    return PreferenceReport(
        accuracy=(margins > 0).float().mean().item(), margin=margins.mean().item()
    )
