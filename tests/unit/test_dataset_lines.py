"""What is said of one line of a data set."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.contracts.base import DatasetKind
from services.gateway.upload.jsonl import (
    MAX_LINE_BYTES,
    MAX_REASON_CHARS,
    SHAPES,
    LineProblem,
    check_line,
    kind_of,
)

GOOD: dict[DatasetKind, bytes] = {
    "messages": b'{"messages": [{"role": "user", "content": "2+2?"}, '
    b'{"role": "assistant", "content": "4"}]}',
    "prompt_completion": b'{"prompt": "2+2?", "completion": "4"}',
    "instruction": b'{"instruction": "add", "input": "2 2", "output": "4"}',
    "text": b'{"text": "2+2=4"}',
    "preference": b'{"prompt": "2+2?", "chosen": "4", "rejected": "5"}',
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "prompt", "completion", "text", "chosen", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


def problem(line: bytes, kind: DatasetKind) -> LineProblem:
    found = check_line(line, kind)
    assert isinstance(found, LineProblem), found
    return found


@pytest.mark.parametrize("kind", list(GOOD))
def test_a_line_of_each_kind_is_recognised_and_accepted(kind: DatasetKind) -> None:
    assert kind_of(GOOD[kind]) == kind
    assert isinstance(check_line(GOOD[kind], kind), int)


@pytest.mark.parametrize("kind", list(SHAPES))
def test_the_shape_that_a_fix_suggests_is_itself_accepted(kind: DatasetKind) -> None:
    assert isinstance(check_line(SHAPES[kind].encode(), kind), int)


def test_only_the_texts_count_in_utf8_bytes() -> None:
    assert (
        check_line('{"prompt": "né", "completion": "日本", "id": 7}'.encode(), "prompt_completion")
        == 9
    )


def test_keys_of_the_users_own_are_ignored() -> None:
    assert check_line(b'{"text": "a", "meta": {"source": [1, 2.5, null]}}', "text") == 1


def test_an_instruction_needs_no_input_and_a_prompt_may_be_empty() -> None:
    assert check_line(b'{"instruction": "add", "output": "4"}', "instruction") == 4
    assert check_line(b'{"prompt": "", "completion": "4"}', "prompt_completion") == 1


TURNS = b'[{"role": "user", "content": "2+2?"}]'


def test_the_prompt_of_a_preference_is_a_text_or_the_turns_of_a_conversation() -> None:
    assert check_line(GOOD["preference"], "preference") == 6
    line = b'{"prompt": ' + TURNS + b', "chosen": "4", "rejected": "5"}'
    assert check_line(line, "preference") == 6
    assert check_line(b'{"prompt": "", "chosen": "4", "rejected": "5"}', "preference") == 2


@pytest.mark.parametrize(
    ("line", "path", "reason"),
    [
        (b'{"prompt": "a", "chosen": "", "rejected": "b"}', "$.chosen", "is empty"),
        (b'{"prompt": "a", "chosen": "b", "rejected": " \\n"}', "$.rejected", "is empty"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "b"}', "$.rejected", "nothing is preferred"),
        (b'{"prompt": [], "chosen": "b", "rejected": "c"}', "$.prompt", "is empty"),
        (
            b'{"prompt": [{"role": "assistant", "content": "x"}], "chosen": "b", "rejected": "c"}',
            "$.prompt",
            "ends with an assistant",
        ),
        (b'{"prompt": 7, "chosen": "b", "rejected": "c"}', "$.prompt", "int"),
        (b'{"prompt": ["x"], "chosen": "b", "rejected": "c"}', "$.prompt[0]", "object"),
        (
            b'{"prompt": ' + TURNS + b', "chosen": "\\u0000", "rejected": "c"}',
            "$",
            "NUL",
        ),
    ],
)
def test_a_preference_without_a_better_answer_says_where(
    line: bytes, path: str, reason: str
) -> None:
    found = problem(line, "preference")
    assert found.path == path
    assert reason in found.reason


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_other_turns_may_be_empty_and_have_any_known_role(role: str) -> None:
    turns = [{"role": role, "content": ""}, {"role": "assistant", "content": "hi"}]
    assert check_line(json.dumps({"messages": turns}).encode(), "messages") == 2


def test_a_line_may_end_with_a_carriage_return() -> None:
    assert check_line(b'{"text": "a"}\r', "text") == 1


@pytest.mark.parametrize(
    ("line", "path", "reason"),
    [
        (b'{"messages": []}', "$.messages", "is empty"),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "$.messages", "no assistant"),
        (
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}',
            "$.messages[1].content",
            "is missing",
        ),
        (b'{"messages": [{"role": "bot", "content": "a"}]}', "$.messages[0].role", "'bot'"),
        (b'{"messages": [{"role": "user", "content": 7}]}', "$.messages[0].content", "int"),
        (b'{"messages": [{"role": "user", "content": null}]}', "$.messages[0].content", "null"),
        (
            b'{"messages": [{"role": "assistant", "content": " \\n"}]}',
            "$.messages[0].content",
            "is empty",
        ),
        (b'{"messages": "hello"}', "$.messages", "Expected `array`, got `str`"),
        (b'{"messages": ["hello"]}', "$.messages[0]", "Expected `object`, got `str`"),
        (b"{}", "$", "none of the known keys"),
        (b'{"txt": "a"}', "$", "none of the known keys"),
        (b"[]", "$", "not a JSON object"),
        (b"null", "$", "not a JSON object"),
        (b'{"prompt": "a", "completion": "b"}', "$", "'prompt_completion'"),
        (b'{"text": "a"', "$", "truncated"),
        (b"{'text': 'a'}", "$", "malformed"),
        (b'{"text": "a"} {"text": "b"}', "$", "trailing"),
        (b'\xef\xbb\xbf{"text": "a"}', "$", "byte order mark"),
        (b'{"messages": "\xff"}', "$", "not UTF-8: byte 15 of the line is 0xff"),
        (b'{"x": "\xed\xa0\x80"}', "$", "not UTF-8"),
        (b'{"x": "a\x00b"}', "$", "malformed"),
        (b'{"messages": [{"role": "assistant", "content": "\\u0000"}]}', "$", "NUL"),
        (b'{"messages": [{"role": "assistant", "content": "\\ud800 half"}]}', "$", "surrogate"),
        (b'{"messages": "x", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "$", "nested"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "$", "nested too deeply"),
        (b"[" * 100_000, "$", "not a JSON object"),
        (b'{"messages": ' + b" " * MAX_LINE_BYTES + b"[]}", "$", "longer than 4194304 bytes"),
    ],
)
def test_a_bad_line_of_messages_names_the_place_the_reason_and_a_fix(
    line: bytes, path: str, reason: str
) -> None:
    found = problem(line, "messages")
    assert found.path == path
    assert reason in found.reason
    assert found.fix


@pytest.mark.parametrize(
    ("line", "kind", "path"),
    [
        (b'{"prompt": "a", "completion": ""}', "prompt_completion", "$.completion"),
        (b'{"prompt": "a"}', "prompt_completion", "$.completion"),
        (b'{"instruction": "a", "output": " "}', "instruction", "$.output"),
        (b'{"instruction": "a", "input": 3, "output": "b"}', "instruction", "$.input"),
        (b'{"text": "\\t"}', "text", "$.text"),
        (b'{"text": ["a"]}', "text", "$.text"),
    ],
)
def test_a_row_without_anything_to_learn_names_the_empty_key(
    line: bytes, kind: DatasetKind, path: str
) -> None:
    assert kind_of(line) == kind
    assert problem(line, kind).path == path


def test_a_json_array_file_is_told_to_write_one_object_per_line() -> None:
    assert "without the [ ]" in problem(b'[{"text": "a"},', "text").fix


def test_an_object_spread_over_lines_is_told_how_to_write_a_line_break() -> None:
    assert "a line break inside a text" in problem(b'{"text":', "text").fix


def test_a_huge_wrong_value_is_not_echoed_back_whole() -> None:
    line = b'{"messages": [{"role": "' + b"x" * 10**6 + b'", "content": ""}]}'
    assert len(problem(line, "messages").reason) <= MAX_REASON_CHARS


@given(line=st.binary(max_size=200), kind=st.sampled_from(list(GOOD)))
def test_any_bytes_are_a_row_or_a_problem(line: bytes, kind: DatasetKind) -> None:
    assert isinstance(check_line(line, kind), int | LineProblem)


@given(value=json_values, kind=st.sampled_from(list(GOOD)))
def test_any_json_is_a_row_or_a_problem(value: object, kind: DatasetKind) -> None:
    line = json.dumps(value).encode()
    assert isinstance(check_line(line, kind), int | LineProblem)
    kind_of(line)


@given(
    line=st.sampled_from(list(GOOD.values())).flatmap(
        lambda good: st.tuples(
            st.just(good), st.integers(0, len(good) - 1), st.binary(max_size=3)
        ).map(lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + len(cut[2]) :])
    )
)
def test_what_is_accepted_can_be_read_by_any_json_parser(line: bytes) -> None:
    kind = kind_of(line)
    if kind is not None and isinstance(check_line(line, kind), int):
        assert isinstance(json.loads(line.decode()), dict)
        assert isinstance(msgspec.json.decode(line), dict)
