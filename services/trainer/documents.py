"""Rows as tokens with a loss mask: tokenised, truncated, split. No torch here."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from services.trainer.chat import (
    FALLBACK_TEMPLATE,
    ChatError,
    Rendered,
    defuse,
    free_sentinel,
    render_conversation,
)
from services.trainer.rows import (
    DatasetError,
    Instruction,
    Messages,
    Preference,
    PromptCompletion,
    Row,
    Text,
    Turn,
    raise_if_any,
    read_rows,
)

# Rows that are tokenised in one call, so that the tokenizer's threads have work.
ENCODE_BATCH = 1024

# Held-out rows beyond this make evaluations slow without making them truer; the rest trains.
MAX_VALIDATION_ROWS = 512


class Document(NamedTuple):
    """One row. ``labels[i]``: token i is something that the model learns to say."""

    line: int
    tokens: NDArray[np.int32]
    labels: NDArray[np.bool_]

    @property
    def size(self) -> int:
        return len(self.tokens)

    @property
    def fingerprint(self) -> bytes:
        return self.tokens.tobytes()

    @property
    def example(self) -> "Document":
        return self

    @property
    def label_count(self) -> int:
        """Predicted label tokens; the first token of a document is never predicted."""
        return int(self.labels[1:].sum())


class Answer(NamedTuple):
    """One answer to a prompt that is a text, or the turns of a conversation: it alone is learnt."""

    prompt: str | tuple[Turn, ...]
    answer: str


class Rows(Protocol):
    """Documents, or what is made of them. ``size`` is in tokens, ``example`` what can be shown of
    it, and equal ``fingerprint`` means equal content."""

    @property
    def size(self) -> int: ...
    @property
    def fingerprint(self) -> bytes: ...
    @property
    def example(self) -> Document: ...


T = TypeVar("T", bound=Rows)


class Documents(NamedTuple, Generic[T]):
    """A data set; ``tokens_truncated`` counts what was cut from ``rows_truncated`` rows."""

    rows: list[T]
    rows_truncated: int
    tokens_truncated: int


class Split(NamedTuple, Generic[T]):
    """``name`` says what was held out; every number on it carries that name."""

    train: list[T]
    validation: list[T]
    name: str

    @property
    def examples(self) -> list[Document]:
        """What is held out, as single documents."""
        return [row.example for row in self.validation]


def prepare_tokenizer(tokenizer: Any) -> None:
    """Gives a tokenizer without a chat template ours. Conversations need one."""
    if not tokenizer.chat_template:
        tokenizer.chat_template = FALLBACK_TEMPLATE


def load_documents(path: Path, tokenizer: Any, max_tokens: int) -> Documents[Document]:
    """Reads, renders, tokenises and truncates a data set.

    A row that is longer than ``max_tokens`` loses its end; if no label is left, all of it.
    Raises `DatasetError` naming lines: malformed rows, rows the template refuses, rows without
    anything to learn.
    """
    kept: list[Document] = []
    errors: list[str] = []
    rows_truncated = tokens_truncated = 0
    for document in tokenise(answered(read_rows(path)), tokenizer, errors):
        if document.label_count == 0:
            errors.append(f"line {document.line}: no token to learn from; is the answer empty?")
            continue
        cut = truncate(document, max_tokens)
        if cut.label_count:
            kept.append(cut)
        lost = len(document.tokens) - (len(cut.tokens) if cut.label_count else 0)
        rows_truncated += lost > 0
        tokens_truncated += lost
    raise_if_any(errors)
    if not kept:
        raise DatasetError(f"no row has an answer within {max_tokens} tokens; raise seq_len")
    return Documents(kept, rows_truncated, tokens_truncated)


def answered(rows: Iterable[tuple[int, Row | Preference]]) -> Iterator[tuple[int, Row]]:
    """The rows, as long as each has one answer. Raises `DatasetError`."""
    for line, row in rows:
        if isinstance(row, Preference):
            raise DatasetError(
                f"line {line}: the data set holds preferences, which the method dpo learns from; "
                "choose it, or give rows with one answer each"
            )
        yield line, row


def truncate(document: Document, max_tokens: int) -> Document:
    return Document(document.line, document.tokens[:max_tokens], document.labels[:max_tokens])


def tokenise(
    rows: Iterable[tuple[int, Row | Answer]], tokenizer: Any, errors: list[str]
) -> Iterator[Document]:
    """Yields a document a row; a row that cannot be rendered is added to ``errors`` instead."""
    specials = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    bos = leading_special(tokenizer)
    pending = iter(rows)
    while batch := list(itertools.islice(pending, ENCODE_BATCH)):
        rendered: list[tuple[int, bool, Rendered]] = []
        for line, row in batch:
            try:
                rendered.append((line, *render_row(row, tokenizer, specials)))
            except (ChatError, TemplateError) as error:
                errors.append(f"line {line}: {error}")
        pieces = [text.text.split(text.sentinel) for _, _, text in rendered]
        encodings = iter(
            tokenizer.backend_tokenizer.encode_batch(
                list(itertools.chain.from_iterable(pieces)), add_special_tokens=False
            )
        )
        for (line, is_raw, text), parts in zip(rendered, pieces, strict=True):
            encoded = [(part, next(encodings)) for part in parts]
            yield label(line, bos if is_raw else [], encoded, text)


def label(line: int, prefix: list[int], encoded: list[tuple[str, Any]], text: Rendered) -> Document:
    """Joins a row's pieces; a token is a label if its first character lies in a span."""
    tokens = list(prefix)
    starts = [-1] * len(prefix)
    base = 0
    for part, encoding in encoded:
        tokens += encoding.ids
        starts += [base + start for start, _ in encoding.offsets]
        base += len(part) + len(text.sentinel)
    at = np.array(starts, dtype=np.int64)
    labels = np.zeros(len(tokens), dtype=np.bool_)
    for start, end in text.spans:
        labels |= (at >= start) & (at < end)
    return Document(line, np.array(tokens, dtype=np.int32), labels)


def render_row(row: Row | Answer, tokenizer: Any, specials: list[str]) -> tuple[bool, Rendered]:
    """(is raw text rather than a chat, rendered row). An instruction is a one-turn chat."""

    def render(messages: list[dict[str, str]], prompt: bool) -> str:
        if not messages:
            return ""
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt
        )
        return text

    match row:
        case Messages(messages):
            return False, render_conversation(messages, render, specials)
        case Instruction(instruction, output, extra):
            asked = f"{instruction}\n\n{extra}" if extra else instruction
            turns = (Turn("user", asked), Turn("assistant", output))
            return False, render_conversation(turns, render, specials)
        case PromptCompletion(prompt, completion):
            return True, raw(prompt, completion, tokenizer.eos_token, specials)
        case Text(text):
            return True, raw("", text, tokenizer.eos_token, specials)
        case Answer(str(prompt), answer):
            return True, raw(prompt, answer, tokenizer.eos_token, specials)
        case Answer(turns, answer):
            asked_turns = (*turns, Turn("assistant", answer))
            rendered = render_conversation(asked_turns, render, specials)
            return False, rendered._replace(spans=rendered.spans[-1:])


def raw(prompt: str, completion: str, eos: str | None, specials: list[str]) -> Rendered:
    """Text without a template; what is learnt is the completion and where it ends."""
    sentinel = free_sentinel([prompt, completion])
    prompt = defuse(prompt, specials, sentinel)
    if not completion.strip():
        return Rendered(prompt + completion, [], sentinel)
    text = prompt + defuse(completion, specials, sentinel) + (eos or "")
    return Rendered(text, [(len(prompt), len(text))], sentinel)


def leading_special(tokenizer: Any) -> list[int]:
    """The tokens that this tokenizer puts before a raw text, such as a BOS."""
    with_special = tokenizer("x").input_ids
    bare = tokenizer("x", add_special_tokens=False).input_ids
    return list(with_special[: len(with_special) - len(bare)]) if bare != with_special else []


def split(rows: list[T], fraction: float, seed: int) -> Split[T]:
    """Holds out ``fraction`` of the rows, at most `MAX_VALIDATION_ROWS`, by ``seed``.

    Raises `DatasetError` if nothing remains to learn from.
    """
    count = min(max(1, round(len(rows) * fraction)), MAX_VALIDATION_ROWS)
    chosen = set(random.Random(seed).sample(range(len(rows)), min(count, len(rows))))
    share = f"{fraction:.0%} of rows" if count < MAX_VALIDATION_ROWS else f"{count} rows"
    name = f"validation ({share}, seed {seed})"
    return unseen(rows, [rows[i] for i in sorted(chosen)], name)


def split_by_file(rows: list[T], held_out: Sequence[T]) -> Split[T]:
    """Holds out the first `MAX_VALIDATION_ROWS` rows of a file of their own.

    Raises `DatasetError` if nothing remains to learn from.
    """
    validation = list(held_out[:MAX_VALIDATION_ROWS])
    return unseen(rows, validation, f"validation (file of {len(held_out)} rows)")


def unseen(rows: list[T], validation: list[T], name: str) -> Split[T]:
    """A training row with the same tokens as a held-out row is dropped, so that the held-out
    numbers are about rows the model has not seen. Raises `DatasetError` if nothing remains."""
    held_out = {row.fingerprint for row in validation}
    train = [row for row in rows if row.fingerprint not in held_out]
    if not train:
        raise DatasetError("after holding out rows to validate on, none is left; add other rows")
    return Split(train, validation, name)
