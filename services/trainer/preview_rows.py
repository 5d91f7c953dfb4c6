"""Rows as training sees them, made by training's own functions, in a process of its own.

The process is forked from the server that has everything imported; what is computed here takes no
torch, one thread, and gives way to whatever trains.
"""

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from libs.contracts.base import DatasetKind
from libs.contracts.trainer_rpc import PreviewRow, PreviewToken
from services.trainer.documents import Answer, Document, prepare_tokenizer, tokenise, truncate
from services.trainer.rows import SHAPES, Preference, Row

MAX_SHOWN_TOKENS = 8_192
"""Of all rows of an answer, some 500 KB of it; NATS carries 1 MB."""
LIFE_SECONDS = 15  # then it is cut off, whatever the tokenizer may be doing
MAX_PROBLEM = 1_000  # characters; what a template says may be long
NICE = 10  # training comes first

Which = Literal["chosen", "rejected"]


class Line(Struct, frozen=True):
    """A line of the data set that is not blank; it ends at the byte ``end``."""

    number: int
    text: bytes
    end: int


class Shown(Struct, frozen=True, kw_only=True):
    """The rows of the first ``lines`` lines, or why there are none."""

    rows: tuple[PreviewRow, ...] = ()
    lines: int = 0
    refused: str | None = None


def show(
    answer: Connection, model: Path, lines: tuple[Line, ...], kind: DatasetKind, seq_len: int
) -> None:
    """What the forked process does: say one `Shown`, and end."""
    os.nice(NICE)
    os.environ["RAYON_NUM_THREADS"] = "1"
    from services.trainer.loading import ModelError, load_tokenizer  # the server has torch for it

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIFE_SECONDS)
    try:
        shown = rows_of(lines, load_tokenizer(model), kind, seq_len)
    except ModelError as error:
        shown = Shown(refused=str(error))
    answer.send_bytes(msgspec.json.encode(shown))


def rows_of(lines: tuple[Line, ...], tokenizer: Any, kind: DatasetKind, seq_len: int) -> Shown:
    """As many lines as fit into an answer, at least one."""
    prepare_tokenizer(tokenizer)
    decode = msgspec.json.Decoder(SHAPES[kind]).decode
    rows: list[PreviewRow] = []
    left = MAX_SHOWN_TOKENS
    for done, line in enumerate(lines):
        try:
            row = decode(line.text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            why = f"not a row of the kind {kind}: {error}"
            rows.append(_shown(None, _nothing(line.number), 0, why, tokenizer, left))
            continue
        here = _texts(line.number, row, tokenizer, seq_len)
        if rows and sum(document.size for _, document, _, _ in here) > left:
            return Shown(rows=tuple(rows), lines=done)
        for which, document, lost, problem in here:
            shown = _shown(which, document, lost, problem, tokenizer, left)
            left = max(0, left - len(shown.tokens))
            rows.append(shown)
    return Shown(rows=tuple(rows), lines=len(lines))


def _texts(
    number: int, row: Row | Preference, tokenizer: Any, seq_len: int
) -> list[tuple[Which | None, Document, int, str | None]]:
    """Each text that is learnt from, cut as training cuts it: with the tokens that were lost, and
    why it is not learnt from, if it is not. Of a preference both answers are learnt, or none."""
    texts = [(which, *_text(number, said, tokenizer, seq_len)) for which, said in _said(row)]
    problem = next((problem for *_, problem in texts if problem is not None), None)
    return [(which, cut, lost, own or problem) for which, cut, lost, own in texts]


def _text(
    number: int, said: Row | Answer, tokenizer: Any, seq_len: int
) -> tuple[Document, int, str | None]:
    errors: list[str] = []
    found = list(tokenise([(number, said)], tokenizer, errors))
    if not found:
        return _nothing(number), 0, errors[0].removeprefix(f"line {number}: ")
    (document,) = found
    cut = truncate(document, seq_len)
    problem = None
    if document.label_count == 0:
        problem = "no token to learn from; is the answer empty?"
    elif cut.label_count == 0:
        problem = f"its answer begins after {seq_len} tokens, so it is left out; raise seq_len"
    return cut, document.size - cut.size, problem


def _said(row: Row | Preference) -> list[tuple[Which | None, Row | Answer]]:
    if not isinstance(row, Preference):
        return [(None, row)]
    return [
        ("chosen", Answer(row.prompt, row.chosen)),
        ("rejected", Answer(row.prompt, row.rejected)),
    ]


def _shown(
    which: Which | None,
    document: Document,
    lost: int,
    problem: str | None,
    tokenizer: Any,
    most: int,
) -> PreviewRow:
    ids = document.tokens[:most].tolist()
    # What comes first is never predicted, and so never learnt.
    labels = [False, *document.labels[1:].tolist()]
    return PreviewRow(
        line=document.line,
        answer=which,
        text=tokenizer.decode(ids, clean_up_tokenization_spaces=False),
        tokens=tuple(
            PreviewToken(id, tokenizer.decode([id], clean_up_tokenization_spaces=False), trained)
            for id, trained in zip(ids, labels, strict=False)
        ),
        token_count=document.size,
        trained_count=document.label_count,
        truncated_tokens=lost,
        problem=problem and problem[:MAX_PROBLEM],
    )


def _nothing(number: int) -> Document:
    return Document(number, np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.bool_))
