"""Server-sent events as the WHATWG's standard has them, in whatever pieces they come."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard._sse import Message, Parser


def parsed(*chunks: bytes, last: str | None = None) -> list[Message]:
    parser = Parser(last)
    return [message for chunk in chunks for message in parser.feed(chunk)]


def test_a_message_is_its_fields_up_to_an_empty_line() -> None:
    stream = b"id: 7\nevent: state\ndata: one\ndata: two\n\n"
    assert parsed(stream) == [Message("7", "state", "one\ntwo")]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_lines_end_in_each_of_the_three_ways(end: str) -> None:
    stream = f"data: one{end}{end}data: two{end}{end}".encode()
    assert [message.data for message in parsed(stream)] == ["one", "two"]


def test_a_byte_order_mark_at_the_beginning_is_none_of_it() -> None:
    assert parsed(b"\xef\xbb\xbfdata: one\n\n") == [Message(None, "message", "one")]
    assert parsed(b"data: \xef\xbb\xbfone\n\n")[0].data == "\ufeffone"


def test_comments_and_unknown_fields_say_nothing() -> None:
    assert parsed(b": heartbeat\n\nfuture: x\ndata: one\n\n") == [Message(None, "message", "one")]


def test_only_one_space_after_the_colon_is_left_out() -> None:
    assert [message.data for message in parsed(b"data:  two\n\ndata:none\n\ndata\n\n")] == [
        *(" two", "none"),
        "",
    ]


def test_an_id_stays_until_another_comes_and_one_without_data_counts() -> None:
    parser = Parser("3")
    assert parser.feed(b"data: a\n\n") == [Message("3", "message", "a")]
    assert parser.feed(b"id: 4\n\n") == []
    assert parser.last_event_id == "4"
    assert parser.feed(b"data: b\n\nid\ndata: c\n\n")[0].id == "4"
    assert parser.last_event_id == ""


def test_an_id_with_a_nul_is_none() -> None:
    assert parsed(b"id: 1\0\ndata: a\n\n", last="0")[0].id == "0"


def test_an_id_counts_only_once_its_message_is_whole() -> None:
    parser = Parser("3")
    parser.feed(b"id: 4\ndata: cut off")
    assert parser.last_event_id == "3"


def test_the_server_says_when_to_come_back() -> None:
    parser = Parser()
    parser.feed(b"retry: 1500\n\nretry: soon\n\nretry: -1\n\n")
    assert parser.retry == 1.5


def test_what_the_stream_breaks_off_is_dropped() -> None:
    assert parsed(b"data: whole\n\ndata: half\n") == [Message(None, "message", "whole")]


def test_an_event_without_data_is_none_and_its_name_is_forgotten() -> None:
    assert parsed(b"event: state\n\ndata: a\n\n") == [Message(None, "message", "a")]


WRITTEN = st.lists(
    st.sampled_from(
        [
            *(b"id: 12\r\n", b"event: log\r", b"data: caf\xc3\xa9 \xf0\x9f\x8e\x89\r\n", b"\r\n"),
            *(b"\r", b"\n", b": beat\n", b"data\n", b"retry: 5\r\n", b"data: \xff\n"),
        ]
    ),
    max_size=30,
).map(b"".join)


@given(WRITTEN, st.data())
def test_how_the_stream_is_cut_changes_nothing(stream: bytes, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    bounds = [0, *places, len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(bounds)]
    assert parsed(*pieces) == parsed(stream)
    assert parsed(*[stream[n : n + 1] for n in range(len(stream))]) == parsed(stream)
