"""What telemetry keeps of a batch, and how it cuts an answer."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import msgspec
import pytest

from libs.contracts.telemetry_rpc import NewMessages, StreamMessage
from libs.contracts.training import LogBatch, LogLine, MetricBatch, MetricPoint
from services.telemetry.model import (
    EARLIEST,
    LATEST,
    LINES,
    MAX_ANSWER,
    MAX_MESSAGE,
    POINTS,
    Batch,
    each_once,
    encoded,
    log_batches,
    metric_batches,
    parts,
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


def line(seq: int, text: str, ts: datetime = NOON) -> LogLine:
    return LogLine(seq=seq, ts=ts, stream="stdout", text=text)


def told(batches: list[Batch]) -> list[tuple[int, list[int | str]]]:
    """Of each batch its attempt, and what its JSON says."""
    return [
        (
            batch.epoch,
            [one.get("text", one.get("step")) for one in msgspec.json.decode(batch.encoded)],
        )
        for batch in batches
    ]


def test_of_one_key_the_latest_attempt_counts_and_in_it_the_newest() -> None:
    job, late = uuid4(), NOON + timedelta(seconds=9)
    sent = [
        LogBatch(job_id=job, epoch=1, lines=(line(2, "a", late), line(1, "c", late))),
        LogBatch(job_id=job, epoch=2, lines=(line(1, "b"),)),
        LogBatch(job_id=job, epoch=1, lines=(line(2, "d"), line(3, "e"))),
    ]
    once = each_once(LINES, [made for batch in sent for made in log_batches(batch)])
    assert told(once) == [(2, ["b"]), (1, ["a", "e"])]


def test_batches_that_do_not_overlap_stay_as_they_are_in_the_order_of_their_steps() -> None:
    job = uuid4()
    first, second = (
        made
        for steps in ((1, 2), (3, 4))
        for made in metric_batches(
            MetricBatch(job_id=job, epoch=1, points=tuple(point(step) for step in steps))
        )
    )
    assert each_once(POINTS, [second, first]) == [first, second]


def test_a_batch_in_disorder_is_told_by_step_and_within_one_as_it_happened() -> None:
    late = point(2, "eval")
    early = msgspec.structs.replace(point(2, "train"), ts=NOON - timedelta(seconds=1))
    batch = MetricBatch(job_id=uuid4(), epoch=1, points=(late, point(3), early, point(1), late))
    (made,) = metric_batches(batch)
    assert list(made.items) == [point(1), early, late, point(3)]
    assert msgspec.json.decode(made.encoded, type=list[MetricPoint]) == list(made.items)


def test_nothing_makes_no_batch() -> None:
    assert metric_batches(MetricBatch(job_id=uuid4(), epoch=1, points=())) == []


def test_what_is_told_is_what_is_stored() -> None:
    """No NUL, and UTC: both are made of the same JSON."""
    said = line(1, "a\0b", NOON.astimezone(timezone(timedelta(hours=20))))
    (made,) = log_batches(LogBatch(job_id=uuid4(), epoch=1, lines=(said,)))
    assert made.encoded == (
        b'[{"seq":1,"ts":"2026-03-19T12:00:00Z","stream":"stdout","text":"ab"}]'
    )


def test_payloads_hold_every_line_once_and_stay_within_their_size() -> None:
    job = uuid4()
    written = [
        LogLine(seq=n, ts=NOON, stream="stdout", text="x" * 4_000 if n % 3 else "\u0001" * 4_000)
        for n in range(40)
    ]
    large, small = encoded(job, 1, written[:38]), encoded(job, 1, written[38:])
    pieces = [*parts(large), *parts(small)]
    assert len(pieces) == 39
    made = list(payloads(job, "lines", pieces))
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
