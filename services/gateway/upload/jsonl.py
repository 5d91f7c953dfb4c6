"""One line of a data set: what it holds, or what is wrong with it. Pure.

A line is one JSON object of one of five kinds. Keys beyond a kind's own are allowed and ignored.
"""

import re
from typing import Literal, cast

import msgspec
from msgspec import Struct

from libs.contracts.base import DatasetKind

# A million tokens at four bytes each: beyond the context of any model that could train on it.
MAX_LINE_BYTES = 4 * 1024 * 1024
# A reason quotes what the client sent, e.g. a wrong role, which may be megabytes long.
MAX_REASON_CHARS = 200


class Message(Struct, gc=False):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class MessagesRow(Struct, gc=False):
    messages: list[Message]


class PromptRow(Struct, gc=False):
    prompt: str
    completion: str


class InstructionRow(Struct, gc=False):
    instruction: str
    output: str
    input: str = ""


class TextRow(Struct, gc=False):
    text: str


class PreferenceRow(Struct, gc=False):
    prompt: str | list[Message]
    chosen: str
    rejected: str


AnyRow = MessagesRow | PromptRow | InstructionRow | TextRow | PreferenceRow

_DECODERS: dict[DatasetKind, msgspec.json.Decoder[AnyRow]] = {
    "messages": cast(msgspec.json.Decoder[AnyRow], msgspec.json.Decoder(MessagesRow)),
    "prompt_completion": cast(msgspec.json.Decoder[AnyRow], msgspec.json.Decoder(PromptRow)),
    "instruction": cast(msgspec.json.Decoder[AnyRow], msgspec.json.Decoder(InstructionRow)),
    "text": cast(msgspec.json.Decoder[AnyRow], msgspec.json.Decoder(TextRow)),
    "preference": cast(msgspec.json.Decoder[AnyRow], msgspec.json.Decoder(PreferenceRow)),
}
_REQUIRED_KEYS: dict[DatasetKind, frozenset[str]] = {
    "messages": frozenset({"messages"}),
    "prompt_completion": frozenset({"prompt", "completion"}),
    "instruction": frozenset({"instruction", "output"}),
    "text": frozenset({"text"}),
    "preference": frozenset({"prompt", "chosen", "rejected"}),
}
SHAPES: dict[DatasetKind, str] = {
    "messages": '{"messages": [{"role": "user", "content": "…"}, '
    '{"role": "assistant", "content": "…"}]}',
    "prompt_completion": '{"prompt": "…", "completion": "…"}',
    "instruction": '{"instruction": "…", "input": "…", "output": "…"}',
    "text": '{"text": "…"}',
    "preference": '{"prompt": "…", "chosen": "the better answer", "rejected": "the worse one"}',
}
_ANY_SHAPE = "write the line as one of " + ", ".join(SHAPES.values())
_NO_ARRAY = "write one object per line, without the [ ] and the commas of a JSON array"
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_MISSING_FIELD = re.compile(r"Object missing required field `(\w+)`")


class LineProblem(Struct, frozen=True):
    """``path`` is the JSON path inside the line, ``$`` for the line itself."""

    path: str
    reason: str
    fix: str


def check_line(line: bytes, kind: DatasetKind) -> int | LineProblem:
    """Check one line, without its line break, as a row of ``kind``.

    The answer for a good one is its text, what a model would read, in UTF-8 bytes.
    """
    if len(line) > MAX_LINE_BYTES:
        return too_long()
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError as wrong:
            return LineProblem(
                "$",
                f"not UTF-8: byte {wrong.start + 1} of the line is {line[wrong.start]:#04x}",
                "save the file as UTF-8",
            )
    try:
        return _check_json(line, kind)
    except msgspec.DecodeError as wrong:
        return _not_json(line, str(wrong))
    except RecursionError:
        return LineProblem("$", "is nested too deeply", "flatten the extra keys, or drop them")


def kind_of(line: bytes) -> DatasetKind | None:
    """The kind whose keys are all there; else one of which some are, so that a problem can name
    the missing key. None when there are no known keys, or no object."""
    try:
        return _kind_by_keys(line)
    except (ValueError, RecursionError):
        return None


def too_long() -> LineProblem:
    """What is said of a line past `MAX_LINE_BYTES`, which is never held whole."""
    return LineProblem(
        "$",
        f"is longer than {MAX_LINE_BYTES} bytes",
        "split it into several rows, and end every row with a line break",
    )


def _check_json(line: bytes, kind: DatasetKind) -> int | LineProblem:
    """Raises msgspec's DecodeError, or RecursionError, if the line is no JSON we can read."""
    try:
        row = _DECODERS[kind].decode(line)
    except msgspec.ValidationError as wrong:
        return _wrong_shape(line, kind, str(wrong))
    return _check_row(row, has_nul=b"\\u0000" in line)


def _kind_by_keys(line: bytes) -> DatasetKind | None:
    keys = _decode_object(line).keys()
    for kind, required in _REQUIRED_KEYS.items():
        if required <= keys:
            return kind
    for kind, required in _REQUIRED_KEYS.items():
        if required & keys:
            return kind
    return None


def _check_row(row: AnyRow, has_nul: bool) -> int | LineProblem:
    """What the types cannot say: there is something to learn from, and no NUL."""
    problem: LineProblem | None = None
    if isinstance(row, MessagesRow):
        texts = [message.content for message in row.messages]
        problem = _check_turns(row.messages)
    elif isinstance(row, PromptRow):
        texts = [row.prompt, row.completion]
        problem = _check_target("completion", row.completion)
    elif isinstance(row, InstructionRow):
        texts = [row.instruction, row.input, row.output]
        problem = _check_target("output", row.output)
    elif isinstance(row, PreferenceRow):
        asked = row.prompt
        turns = [asked] if isinstance(asked, str) else [message.content for message in asked]
        texts = [*turns, row.chosen, row.rejected]
        problem = _check_preference(row)
    else:
        texts = [row.text]
        problem = _check_target("text", row.text)
    if problem is None and has_nul and any("\0" in text for text in texts):
        problem = LineProblem("$", "holds a NUL character", "remove every \\u0000 from the line")
    if problem is not None:
        return problem
    size = 0
    for text in texts:
        size += len(text) if text.isascii() else len(text.encode())
    return size


def _check_turns(messages: list[Message]) -> LineProblem | None:
    answers = 0
    for index, message in enumerate(messages):
        if message.role == "assistant":
            answers += 1
            if problem := _check_target(f"messages[{index}].content", message.content):
                return problem
    if answers:
        return None
    return LineProblem(
        "$.messages",
        "has no assistant message" if messages else "is empty",
        "add the assistant message that the model is to learn",
    )


def _check_preference(row: PreferenceRow) -> LineProblem | None:
    """Of two answers that differ in nothing, none is the better one."""
    if not isinstance(row.prompt, str):
        if not row.prompt:
            return LineProblem("$.prompt", "is empty", "write the turns that both answers follow")
        if row.prompt[-1].role == "assistant":
            return LineProblem(
                "$.prompt",
                "ends with an assistant message, and the answers are the assistant's next words",
                "end the prompt with what the assistant answers to",
            )
    for path, answer in (("chosen", row.chosen), ("rejected", row.rejected)):
        if problem := _check_target(path, answer):
            return problem
    if row.chosen == row.rejected:
        return LineProblem(
            "$.rejected",
            "is the same as chosen, so nothing is preferred",
            "write a worse answer, or drop the row",
        )
    return None


def _check_target(path: str, text: str) -> LineProblem | None:
    """The text a row is learned from; a row without any is a mistake in the data."""
    if text and not text.isspace():
        return None
    return LineProblem(f"$.{path}", "is empty", "write the text to learn here, or drop the row")


def _wrong_shape(line: bytes, kind: DatasetKind, message: str) -> LineProblem:
    """Say what msgspec found, e.g. ``Expected `str`, got `int` - at `$.messages[0].content```."""
    reason, _, path = message.partition(" - at `")
    path = path.rstrip("`") or "$"
    start = line.lstrip()[:1]
    if start != b"{":
        return LineProblem("$", "is not a JSON object", _NO_ARRAY if start == b"[" else _ANY_SHAPE)
    found = _kind_by_keys(line)
    if found is None:
        return LineProblem("$", "has none of the known keys", _ANY_SHAPE)
    if found != kind:
        return LineProblem(
            "$",
            f"is of the kind {found!r}, but the file began with {kind!r}",
            f"keep one kind per file: {SHAPES[kind]}",
        )
    fix = f"write the line as {SHAPES[kind]}"
    if missing := _MISSING_FIELD.fullmatch(reason):
        return LineProblem(f"{path}.{missing[1]}", "is missing", fix)
    return LineProblem(path, reason[:MAX_REASON_CHARS], fix)


def _not_json(line: bytes, message: str) -> LineProblem:
    reason = message[:MAX_REASON_CHARS]
    if line.startswith(b"\xef\xbb\xbf"):
        return LineProblem(
            "$", "starts with a byte order mark", "save the file as UTF-8 without a BOM"
        )
    if "truncated" in message:
        fix = "close every brace, quote and \\u escape; a line break inside a text is written \\n"
    elif "surrogate" in message:
        fix = "write the character itself, or both halves of its \\u escape"
    else:
        fix = _ANY_SHAPE
    return LineProblem("$", reason, fix)
