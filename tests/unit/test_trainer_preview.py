"""A preview shows what training sees: the same functions, so the same tokens and labels."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from libs.contracts.base import DatasetKind
from libs.contracts.trainer_rpc import PreviewRow
from services.trainer.documents import load_documents, prepare_tokenizer
from services.trainer.loading import load_tokenizer
from services.trainer.preferences import load_pairs
from services.trainer.preview_rows import MAX_SHOWN_TOKENS, Line, Shown, rows_of
from tests.support.training import chat, chats, write_rows

ROWS: dict[DatasetKind, list[dict[str, Any]]] = {
    "messages": [
        *chats()[:6],
        {
            "messages": [
                {"role": "system", "content": "Be <s>brief</s>."},
                {"role": "user", "content": "né, 日本?"},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": "And?"},
                {"role": "assistant", "content": "No. " * 60},
            ]
        },
    ],
    "prompt_completion": [{"prompt": "two and two is", "completion": f" {n}"} for n in range(4)],
    "instruction": [
        {"instruction": "add", "input": "2 2", "output": "4"},
        {"instruction": "name a colour", "output": "red"},
    ],
    "text": [{"text": "once upon a time " * 30}, {"text": "a lamp"}],
}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    loaded = load_tokenizer(tiny_model)
    prepare_tokenizer(loaded)
    return loaded


def lines_of(path: Path) -> tuple[Line, ...]:
    return tuple(
        Line(number, text, 0) for number, text in enumerate(path.read_bytes().splitlines(), 1)
    )


def shown(path: Path, tokenizer: Any, kind: DatasetKind, seq_len: int = 64) -> Shown:
    return rows_of(lines_of(path), tokenizer, kind, seq_len)


@pytest.mark.parametrize("kind", ROWS)
def test_a_preview_and_training_see_the_same(
    kind: DatasetKind, tokenizer: Any, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ROWS[kind])
    trained = load_documents(path, tokenizer, 64)

    found = shown(path, tokenizer, kind)

    assert found.lines == len(ROWS[kind])
    learnt = [row for row in found.rows if row.problem is None]
    assert [row.line for row in learnt] == [document.line for document in trained.rows]
    for row, document in zip(learnt, trained.rows, strict=True):
        assert [token.id for token in row.tokens] == document.tokens.tolist()
        assert [token.trained for token in row.tokens][1:] == document.labels[1:].tolist()
        assert not row.tokens[0].trained
        assert (row.token_count, row.trained_count) == (document.size, document.label_count)
        assert row.text == tokenizer.decode(document.tokens.tolist())
    assert sum(row.truncated_tokens for row in learnt) == trained.tokens_truncated
    assert sum(row.truncated_tokens > 0 for row in learnt) == trained.rows_truncated


def test_what_is_learnt_is_the_answer_and_nothing_else(tokenizer: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", chats()[:1])
    (row,) = shown(path, tokenizer, "messages").rows
    learnt = "".join(token.text for token in row.tokens if token.trained)
    assert "The lamp with number 0 is red." in learnt
    assert "What is" not in learnt
    assert "What is lamp 0?" in row.text


PREFERENCES: list[dict[str, Any]] = [
    {"prompt": "2+2?", "chosen": "four", "rejected": "seven, or so"},
    {
        "prompt": [
            {"role": "user", "content": "Is there a lamp?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And a boat?"},
        ],
        "chosen": "Yes, a red one.",
        "rejected": "No. " * 40,
    },
]


def test_a_preview_and_training_see_the_same_pairs(tokenizer: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", PREFERENCES)
    trained = load_pairs(path, tokenizer, 64)
    answers = [answer for pair in trained.rows for answer in (pair.chosen, pair.rejected)]

    rows = shown(path, tokenizer, "preference").rows

    assert [row.problem for row in rows] == [None] * 4
    for row, document in zip(rows, answers, strict=True):
        assert [token.id for token in row.tokens] == document.tokens.tolist()
        assert [token.trained for token in row.tokens][1:] == document.labels[1:].tolist()
    assert sum(row.truncated_tokens for row in rows) == trained.tokens_truncated > 0


def test_a_pair_is_learnt_whole_or_not_at_all(tokenizer: Any, tmp_path: Path) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "\ue000\ue001\ue002\ue003"}
    path = write_rows(tmp_path / "rows.jsonl", [pair])
    chosen, rejected = shown(path, tokenizer, "preference").rows
    assert chosen.problem == rejected.problem
    assert "U+E000" in (chosen.problem or "")
    assert chosen.tokens


@pytest.mark.parametrize("prompt", ["2+2?", [{"role": "user", "content": "2+2?"}]])
def test_a_preference_is_its_two_answers(prompt: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "chosen": "four", "rejected": "seven"}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    chosen, rejected = shown(path, tokenizer, "preference").rows
    assert (chosen.answer, rejected.answer) == ("chosen", "rejected")
    assert (chosen.line, rejected.line) == (1, 1)
    assert "four" in "".join(token.text for token in chosen.tokens if token.trained)
    assert "seven" in "".join(token.text for token in rejected.tokens if token.trained)


def problem_of(row: dict[str, Any], tokenizer: Any, tmp_path: Path) -> PreviewRow:
    path = write_rows(tmp_path / "rows.jsonl", [row])
    (found,) = shown(path, tokenizer, "messages").rows
    return found


def test_a_row_that_is_not_learnt_from_says_why(tokenizer: Any, tmp_path: Path) -> None:
    found = problem_of(chat("a lamp " * 200, "b"), tokenizer, tmp_path)
    assert "raise seq_len" in (found.problem or "")
    assert found.token_count == 64
    assert found.truncated_tokens > 100
    taken = "\ue000\ue001\ue002\ue003"
    assert "U+E000" in (problem_of(chat(taken, "b"), tokenizer, tmp_path).problem or "")
    wrong = problem_of({"text": "of another kind"}, tokenizer, tmp_path)
    assert "not a row of the kind messages" in (wrong.problem or "")
    assert (wrong.tokens, wrong.text) == ((), "")


def test_an_answer_has_as_many_rows_as_fit_and_at_least_one(tokenizer: Any, tmp_path: Path) -> None:
    long = "".join(chr(0x4E00 + n % 5000) for n in range(MAX_SHOWN_TOKENS))
    path = write_rows(tmp_path / "rows.jsonl", [{"text": long}, {"text": "short"}])
    found = shown(path, tokenizer, "text", seq_len=131_072)
    assert found.lines == 1
    (row,) = found.rows
    assert len(row.tokens) == MAX_SHOWN_TOKENS < row.token_count
    assert len(msgspec.json.encode(found)) < 900_000


def test_the_service_makes_previews_without_torch() -> None:
    code = (
        "import sys, services.trainer.preview, services.trainer.__main__;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
