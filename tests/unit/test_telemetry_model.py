"""What telemetry keeps of a batch, and how it cuts an answer."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import msgspec
import pytest

from libs.contracts.telemetry_rpc import NewMessages, StreamMessage
from libs.contracts.training import LogLine, MetricPoint
from services.telemetry.model import (
    EARLIEST,
    LATEST,
    MAX_ANSWER,
    MAX_MESSAGE,
    line_key,
    newest_rows,
    payloads,
    storable_text,
    storable_time,
    that_fit,
    whole_steps,
)
from services.telemetry.sequence import MAX_HINT, hint_of

NOON = datetime(2026, 3, 19, 12, 0, tzinfo=UTC)


def point(step: int, phase: str = "train") -> MetricPoint:
    return MetricPoint(
        ts=NOON,
        step=step,
        cycle=1,
        phase=phase,
        loss=0.5,
        lr=1e-4,
        throughput=3_000,
        vram_gb=0,
        grad_norm=1.0,
    )


def test_a_page_ends_with_a_whole_step_so_that_no_evaluation_is_skipped() -> None:
    points = [point(1), point(2), point(2, "eval"), point(3)]
    assert whole_steps(points[:3], 2) == points[:1]
    assert whole_steps(points, 3) == points[:3]


def test_a_step_with_more_points_than_the_limit_is_cut_rather_than_answered_for_ever() -> None:
    points = [point(7, "eval"), point(7, "grow"), point(7, "train")]
    assert whole_steps(points, 2) == points[:2]


def test_what_does_not_fill_the_limit_is_whole() -> None:
    points = [point(1), point(1, "eval")]
    assert whole_steps(points, 2) == points


def test_lines_of_any_length_stay_within_one_answer() -> None:
    lines = [LogLine(seq=n, ts=NOON, stream="stdout", text="\u0001" * 4_000) for n in range(1_000)]
    kept = that_fit(lines)
    assert len(msgspec.json.encode(kept)) <= MAX_ANSWER + 2
    assert len(kept) == 37


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (datetime(2026, 3, 19, 12, 0), NOON),  # noqa: DTZ001 (a trainer may send it)
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), EARLIEST),
        (datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=14))), LATEST),
    ],
)
def test_any_clock_gives_a_time_that_can_be_stored(sent: datetime, stored: datetime) -> None:
    assert storable_time(sent) == stored


def test_a_nul_character_is_left_out() -> None:
    assert storable_text("a\0b") == "ab"


def test_of_rows_with_one_key_the_latest_attempt_counts_and_in_it_the_newest() -> None:
    job = uuid4()
    late, early = NOON + timedelta(seconds=9), NOON
    rows = [(job, 2, 1, late, "a"), (job, 1, 2, early, "b"), (job, 1, 1, late, "c")]
    rows += [(job, 2, 1, early, "d")]
    newest = newest_rows(rows, line_key, slice(2, 4))
    assert list(newest.values()) == [rows[1], rows[0]]


def test_payloads_hold_every_line_once_and_stay_within_their_size() -> None:
    job = uuid4()
    written = [
        LogLine(seq=n, ts=NOON, stream="stdout", text="x" * 4_000 if n % 3 else "\u0001" * 4_000)
        for n in range(40)
    ]
    made = list(payloads(job, "lines", written))
    assert len(made) > 1
    assert all(len(payload) <= MAX_MESSAGE + 100 for payload in made)
    decoded = [msgspec.json.decode(payload) for payload in made]
    assert {one["job_id"] for one in decoded} == {str(job)}
    assert [line["seq"] for one in decoded for line in one["lines"]] == list(range(40))
    assert list(payloads(job, "lines", [])) == []


def test_a_hint_that_would_not_fit_says_how_far_the_sequence_goes() -> None:
    big = msgspec.json.encode("x" * (MAX_HINT // 2))
    messages = [
        StreamMessage(place=place, job_id=uuid4(), kind="log", payload=msgspec.Raw(big))
        for place in (7, 8, 9)
    ]
    hint = msgspec.json.decode(hint_of(messages), type=NewMessages)
    assert ([m.place for m in hint.messages], hint.last) == ([7], 9)
