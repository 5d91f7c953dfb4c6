"""A job as its stream tells it, and how numbers look to people."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.support.scripted_job import notice, points, story
from tuneyard._sse import Message
from tuneyard._stream import event_of
from tuneyard.cli.curve import curve
from tuneyard.cli.story import Story, thinned
from tuneyard.cli.text import lasting, money, plain, short, size

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)  # when every point of the script was measured


def told(*events: tuple[str, Any]) -> Story:
    made = Story()
    for name, data in events:
        event = event_of(Message(event=name, data=msgspec.json.encode(data).decode(), id="1"))
        assert event is not None
        made.take(event)
    return made


def test_what_is_said_again_replaces_what_was_said_before() -> None:
    again = points(9, 10)
    again["points"][0]["loss"] = 1.0

    losses = told(("metrics", points(8, 9, 10)), ("metrics", again)).losses(evaluated=False)

    assert [step for step, _ in losses] == [8, 9, 10]
    assert losses[1] == (9, 1.0)


def test_the_rest_takes_as_long_as_its_tokens_at_the_speed_of_the_last_points() -> None:
    running = told(("state", notice("running")), ("metrics", points(10, 20, 30)))

    assert running.remaining(NOON) == timedelta(seconds=30)
    assert running.remaining(NOON + timedelta(seconds=12)) == timedelta(seconds=18)
    assert running.remaining(NOON + timedelta(hours=1)) == timedelta()


def test_nobody_knows_the_rest_of_what_has_not_begun_or_has_ended() -> None:
    assert told(("state", notice("queued"))).remaining(NOON) is None
    assert told(("state", notice("running"))).remaining(NOON) is None
    assert told(*story()).remaining(NOON) is None


def test_evaluations_are_told_from_training() -> None:
    whole = told(*story())

    assert len(whole.losses(evaluated=False)) == 60
    assert whole.losses(evaluated=True) == [(0, 4.0)]


@pytest.mark.parametrize("count", [0, 1, 2, 99, 100, 101, 12_345])
def test_a_curve_has_as_many_points_as_a_screen_shows_and_keeps_its_mean(count: int) -> None:
    whole = [(step, float(step)) for step in range(count)]
    thin = thinned(whole, 100)

    assert len(thin) <= 100
    assert [step for step, _ in thin] == sorted(step for step, _ in thin)
    assert not whole or thin[0][0] <= count / 100


def test_a_curve_fits_into_its_place_and_has_no_colour() -> None:
    drawn = curve([(n, 1 / n) for n in range(1, 5000)], [(1, 1.0)], width=60, height=10)

    lines = drawn.splitlines()
    assert len(lines) == 10
    assert max(map(len, lines)) <= 60
    assert "\x1b" not in drawn
    assert curve([(1, 1.0)], [], width=60, height=10) == ""
    assert curve([(1, 2.0), (2, 2.0)], [], width=60, height=10)


def test_numbers_look_as_people_write_them() -> None:
    assert [money(cents, "usd") for cents in (0, 5, 123456, -7)] == [
        "0.00 USD",
        "0.05 USD",
        "1,234.56 USD",
        "-0.07 USD",
    ]
    assert [short(n) for n in (0, 999, 1000, 1_540_000_000)] == ["0", "999", "1K", "1.54B"]
    assert [size(n) for n in (0, 999, 1000, 600_000_000)] == ["0 B", "999 B", "1.0 kB", "600.0 MB"]
    times = [lasting(seconds) for seconds in (0, 61, 3661, 90_000)]
    assert times == ["00:00", "01:01", "1:01:01", "1 day, 1:00:00"]


def test_nothing_that_a_terminal_obeys_gets_through() -> None:
    assert plain("a\x1b[2Jb\rc\x9bd\n\te") == "a\\x1b[2Jb\\x0dc\\x9bd\n\te"
