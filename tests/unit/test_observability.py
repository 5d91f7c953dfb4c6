"""One trace through everything: what is continued, what is refused, what a log line shows."""

import re

import pytest

from libs.observability.trace import add_trace, continued, current_traceparent

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NO_TRACE = "00-00000000000000000000000000000000-b7ad6b7169203331-01"


def test_a_given_trace_is_continued_and_ends_with_its_block() -> None:
    with continued(GIVEN) as traceparent:
        assert traceparent == current_traceparent() == GIVEN
    assert current_traceparent() is None


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        "",
        "nonsense",
        GIVEN.upper(),
        NO_TRACE,
        f"{GIVEN}\n",
    ],
)
def test_a_malformed_trace_is_replaced_by_a_new_one(malformed: str | None) -> None:
    with continued(malformed) as traceparent:
        assert traceparent != malformed
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", traceparent)


def test_a_log_line_shows_the_trace_and_what_is_bound_to_it() -> None:
    with continued(GIVEN, job_id="7"):
        line = add_trace(None, "info", {"event": "e"})
    assert line == {"trace_id": "0af7651916cd43dd8448eb211c80319c", "job_id": "7", "event": "e"}
    assert add_trace(None, "info", {"event": "e"}) == {"event": "e"}


def test_traces_nest() -> None:
    with continued(GIVEN):
        with continued(None) as inner:
            assert current_traceparent() == inner != GIVEN
        assert current_traceparent() == GIVEN
