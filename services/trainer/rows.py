"""A data set's lines as typed rows. No torch here, and no tokenizer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from libs.contracts.base import DatasetKind

# Enough to see a pattern, few enough to read.
MAX_ERRORS_SHOWN = 20


class DatasetError(Exception):
    """The data set cannot be trained on; the text names the lines and what to change."""


class Turn(Struct, frozen=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Messages(Struct, frozen=True):
    messages: tuple[Turn, ...]


class PromptCompletion(Struct, frozen=True):
    prompt: str
    completion: str


class Instruction(Struct, frozen=True):
    instruction: str
    output: str
    input: str = ""


class Text(Struct, frozen=True):
    text: str


class Preference(Struct, frozen=True):
    """Two answers to one prompt, of which ``chosen`` is the better: after a text, or after the
    turns of a conversation."""

    prompt: str | tuple[Turn, ...]
    chosen: str
    rejected: str


Row = Messages | PromptCompletion | Instruction | Text

SHAPES: dict[DatasetKind, type[Row | Preference]] = {
    "messages": Messages,
    "prompt_completion": PromptCompletion,
    "instruction": Instruction,
    "text": Text,
    "preference": Preference,
}
REQUIRED_KEYS: dict[DatasetKind, frozenset[str]] = {
    kind: frozenset(field.name for field in msgspec.structs.fields(shape) if field.required)
    for kind, shape in SHAPES.items()
}


def detect_kind(line: bytes) -> DatasetKind:
    """The kind of a file by its first row, as the upload's check sees it: a kind whose keys are all
    there before one of which only some are. Raises `DatasetError`."""
    try:
        keys = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise DatasetError(f"line 1: not a JSON object ({error})") from error
    for kind, required in REQUIRED_KEYS.items():
        if required <= keys.keys():
            return kind
    for kind, required in REQUIRED_KEYS.items():
        if required & keys.keys():
            return kind
    raise DatasetError(
        "line 1: no known keys; a row has 'messages', 'prompt' and 'completion', "
        "'instruction' and 'output', or 'text'"
    )


def read_rows(path: Path) -> Iterator[tuple[int, Row | Preference]]:
    """Yields (line number from 1, row), skipping blank lines.

    Raises `DatasetError` at the end if any line was not a row of the file's kind, naming the
    first `MAX_ERRORS_SHOWN` of them.
    """
    decoder: msgspec.json.Decoder[Row | Preference] | None = None
    errors: list[str] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.strip()
            if not line:
                continue
            decoder = decoder or msgspec.json.Decoder(SHAPES[detect_kind(line)])
            try:
                yield number, decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                errors.append(f"line {number}: {error}")
    if decoder is None:
        raise DatasetError("the data set is empty; it needs at least two rows")
    raise_if_any(errors)


def raise_if_any(errors: list[str]) -> None:
    """Raises one `DatasetError` that shows the first errors and counts the rest."""
    if errors:
        more = len(errors) - MAX_ERRORS_SHOWN
        shown = errors[:MAX_ERRORS_SHOWN] + ([f"and {more} more lines"] if more > 0 else [])
        raise DatasetError("\n".join(shown))
