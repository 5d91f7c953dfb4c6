"""Spans: what is recorded of a trace, whose child it is, and what is never told of it."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind

from libs.observability.exported_spans import readable
from libs.observability.spans import Recorder, begun, current_span, record, recording, span
from libs.observability.trace import (
    add_trace,
    continued,
    current_traceparent,
    traceparent_within,
    unrecorded,
)

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REFUSED = f"{GIVEN[:-2]}00"
SECRET = "whsec_of_somebody"


@pytest.fixture
def recorded() -> Iterator[list[span]]:
    """What has ended, in that order."""
    ended: list[span] = []
    record(Recorder(ended.append, 1.0))
    yield ended
    record(None)


def test_nothing_is_recorded_unless_somebody_wants_it() -> None:
    with continued(GIVEN), span("a", enters=True) as one:
        one.set(size=1)
        one.fail(ValueError())
        assert current_traceparent() == GIVEN
        assert not recording()
    assert one.attributes == {}


def test_a_span_is_the_child_of_the_one_around_it_and_of_the_trace_that_came(
    recorded: list[span],
) -> None:
    with continued(GIVEN), span("outer") as outer:
        with span("first") as first:
            assert current_traceparent() == first.traceparent
        with span("second"):
            pass
    assert [(one.name, one.parent) for one in recorded] == [
        ("first", outer.traceparent),
        ("second", outer.traceparent),
        ("outer", GIVEN),
    ]
    assert {one.traceparent[:35] for one in recorded} == {GIVEN[:35]}
    assert len({one.traceparent for one in recorded}) == 3
    assert all(0 < one.started_at <= one.ended_at for one in recorded)


def test_work_that_belongs_to_no_request_leaves_no_spans(recorded: list[span]) -> None:
    with span("a sweep"):
        assert current_traceparent() is None
    with continued(None), span("a question without a trace"):
        pass
    assert recorded == []


@pytest.mark.parametrize("given", [None, "nonsense", "00-" + GIVEN[3:].upper()])
def test_a_request_without_a_good_trace_begins_one(recorded: list[span], given: str | None) -> None:
    with continued(given), span("request", SpanKind.SERVER, enters=True), span("inner"):
        pass
    inner, request = recorded
    assert request.parent is None
    assert inner.parent == request.traceparent


def test_whoever_does_not_want_to_be_recorded_is_not(recorded: list[span]) -> None:
    with continued(REFUSED), span("request", enters=True):
        assert current_traceparent() == REFUSED
    assert recorded == []


@pytest.mark.parametrize("given", [None, GIVEN])
def test_a_client_that_wants_to_be_recorded_gets_no_more_than_the_operator_keeps(
    given: str | None,
) -> None:
    ended: list[span] = []
    record(Recorder(ended.append, 0.0))
    with continued(given) as entered, span("request", enters=True), span("inner"):
        sent = current_traceparent()
    with continued(GIVEN), span("of a trace that was kept where it entered"):
        pass
    record(None)
    assert sent == f"{entered[:-2]}00"
    assert [one.name for one in ended] == ["of a trace that was kept where it entered"]


def test_a_handler_within_a_span_of_the_jobs_trace_stays_within_it(recorded: list[span]) -> None:
    other = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with continued(GIVEN), span("process") as processing:
        with continued(GIVEN, job_id="7") as traceparent:
            assert traceparent == processing.traceparent == traceparent_within(GIVEN)
            assert current_span() is processing
        with continued(other) as traceparent:
            assert traceparent == other
        assert traceparent_within(other) == other
        assert traceparent_within(None) is None
    assert traceparent_within(GIVEN) == GIVEN


def test_what_is_done_every_second_is_no_part_of_the_picture(recorded: list[span]) -> None:
    with continued(GIVEN, job_id="7"), unrecorded():
        with span("beat"):
            assert current_traceparent() == REFUSED
        assert add_trace(None, "info", {})["trace_id"] == GIVEN[3:35]
    with unrecorded():
        assert current_traceparent() is None
    assert recorded == []


def test_a_log_line_shows_the_span_it_was_written_in(recorded: list[span]) -> None:
    with continued(GIVEN):
        assert "span_id" not in add_trace(None, "info", {})
        with span("a") as one:
            assert add_trace(None, "info", {})["span_id"] == one.traceparent[36:52]


def test_a_span_carries_what_is_bound_to_the_trace_and_what_it_is_told(
    recorded: list[span],
) -> None:
    with continued(GIVEN, job_id="7"), span("a", attributes={"rpc.method": "m"}):
        current_span().set(size=3)
        current_span().happened("asks again", tries=1)
    (one,) = recorded
    assert one.attributes == {"tuneyard.job_id": "7", "rpc.method": "m", "tuneyard.size": 3}
    assert [(m.name, dict(m.attributes)) for m in one.moments] == [
        ("asks again", {"tuneyard.tries": 1})
    ]


def test_of_an_exception_its_kind_and_place_are_told_and_never_its_words(
    recorded: list[span],
) -> None:
    with pytest.raises(ValueError), continued(GIVEN), span("a"):
        raise ValueError(SECRET) from RuntimeError(SECRET)
    told = readable(recorded[0], Resource({}))
    assert (told.status.status_code.name, told.status.description) == ("ERROR", "ValueError")
    (event,) = told.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "ValueError"
    assert "test_spans.py" in str(event.attributes["exception.stacktrace"])
    assert SECRET not in told.to_json()


def test_what_is_cancelled_or_expected_has_not_failed(recorded: list[span]) -> None:
    with pytest.raises(asyncio.CancelledError), continued(GIVEN), span("a"):
        raise asyncio.CancelledError
    with pytest.raises(KeyError), continued(GIVEN), span("b", expected=(KeyError,)):
        raise KeyError
    assert [(one.failure, dict(one.attributes)) for one in recorded] == [
        (None, {}),
        (None, {"tuneyard.outcome": "KeyError"}),
    ]


def test_what_goes_on_beside_other_things_ends_when_it_is_told(recorded: list[span]) -> None:
    publishing = begun("publish", SpanKind.PRODUCER, {}, GIVEN)
    assert current_traceparent() is None
    for nobodys in (None, REFUSED):
        begun("publish", SpanKind.PRODUCER, {}, nobodys).end()
    assert recorded == []
    publishing.end("what a callback is given")
    assert [one.parent for one in recorded] == [GIVEN]
