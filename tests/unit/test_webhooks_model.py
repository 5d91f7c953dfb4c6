"""Given a delivery and its endpoint, when an attempt has ended: what becomes of both."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from msgspec.structs import replace
from standardwebhooks import Webhook, WebhookVerificationError

from services.webhooks.model import (
    GIVE_UP_ENDPOINT,
    JITTER,
    LONGEST_PAUSE,
    PAUSE,
    SCHEDULE,
    Attempted,
    Health,
    Progress,
    decide,
    response_text,
    retry_after,
)
from services.webhooks.signing import signed_headers

NOON = datetime(2026, 3, 19, 12, 0, tzinfo=UTC)
CLAIMED = NOON + timedelta(seconds=45)
PENDING = Progress(status="pending", step=0, attempts=0, next_at=CLAIMED, delivered_at=None)
HEALTHY = Health(
    enabled=True, disabled_reason=None, disabled_at=None, failing_since=None, held_until=None
)


def attempted(status_code: int | None = 500, **changes: object) -> Attempted:
    fields: dict[str, object] = {
        "claimed_until": CLAIMED,
        "ping": False,
        "started_at": NOON,
        "ended_at": NOON,
        "latency_ms": 7,
        "status_code": status_code,
        "error": None if status_code else "No complete answer within 15 seconds.",
        "response": "" if status_code else None,
        "retry_after": None,
    }
    return Attempted(**(fields | changes))  # type: ignore[arg-type]


def after(
    attempt: Attempted, progress: Progress = PENDING, health: Health = HEALTHY, chance: float = 0.0
) -> tuple[Progress, Health]:
    return decide(progress, health, attempt, chance=chance)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    progress, health = after(attempted(status), health=replace(HEALTHY, failing_since=NOON))
    assert progress == Progress(
        status="delivered", step=0, attempts=1, next_at=None, delivered_at=NOON
    )
    assert health == HEALTHY


@pytest.mark.parametrize("status", [100, 301, 302, 307, 400, 401, 404, 422, 500, 503, 600, None])
def test_anything_else_is_a_failure_that_is_tried_again(status: int | None) -> None:
    progress, health = after(attempted(status))
    assert progress == replace(PENDING, step=1, attempts=1, next_at=NOON + timedelta(seconds=5))
    assert health == replace(HEALTHY, failing_since=NOON)


def test_a_2xx_whose_answer_did_not_end_is_a_failure() -> None:
    progress, _ = after(attempted(200, error="No complete answer within 15 seconds."))
    assert progress.status == "pending"


def test_the_schedule_is_the_specifications_and_then_it_is_given_up() -> None:
    waits = []
    progress = PENDING
    while progress.status == "pending":
        progress, _ = after(attempted(claimed_until=progress.next_at), progress)
        if progress.next_at:
            waits.append((progress.next_at - NOON).total_seconds())
    assert waits == [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert sum(waits) == timedelta(hours=75, minutes=35, seconds=5).total_seconds()
    assert (progress.status, progress.attempts) == ("failed", len(SCHEDULE))


def test_jitter_makes_it_later_by_a_tenth_at_most() -> None:
    for chance in (0.0, 0.5, 1.0):
        progress, _ = after(attempted(), replace(PENDING, step=1), chance=chance)
        assert progress.next_at == NOON + timedelta(minutes=5) * (1 + JITTER * chance)


def test_410_disables_the_endpoint_and_ends_the_delivery() -> None:
    progress, health = after(attempted(410))
    assert progress.status == "failed"
    assert progress.next_at is None
    assert (health.enabled, health.disabled_reason, health.disabled_at) == (False, "gone", NOON)


@pytest.mark.parametrize("status", [429, 502, 504])
def test_an_endpoint_under_load_is_left_alone_for_a_while(status: int) -> None:
    progress, health = after(attempted(status))
    assert health.held_until == NOON + PAUSE
    assert progress.next_at == NOON + timedelta(seconds=5)


@pytest.mark.parametrize("status", [429, 503, 400])
def test_the_pause_that_it_asked_for_holds_for_the_endpoint_and_the_delivery(status: int) -> None:
    progress, health = after(attempted(status, retry_after=timedelta(minutes=10)))
    assert health.held_until == NOON + timedelta(minutes=10)
    assert progress.next_at == NOON + timedelta(minutes=10)


def test_a_pause_shorter_than_the_schedule_hurries_nothing() -> None:
    progress, _ = after(attempted(429, retry_after=timedelta(seconds=1)), replace(PENDING, step=3))
    assert progress.next_at == NOON + SCHEDULE[4]


def test_nobody_can_ask_for_a_pause_without_end() -> None:
    progress, health = after(attempted(503, retry_after=timedelta(days=9_000)))
    assert health.held_until == NOON + LONGEST_PAUSE
    assert progress.next_at == NOON + LONGEST_PAUSE


def test_a_longer_pause_is_not_cut_short_by_the_next_answer() -> None:
    held = replace(HEALTHY, held_until=NOON + timedelta(hours=1))
    _, health = after(attempted(429), health=held)
    assert health.held_until == NOON + timedelta(hours=1)


def test_five_days_of_nothing_but_failure_disable_it() -> None:
    for since, enabled in (
        (NOON - GIVE_UP_ENDPOINT + timedelta(seconds=1), True),
        (NOON - GIVE_UP_ENDPOINT, False),
    ):
        _, health = after(attempted(), health=replace(HEALTHY, failing_since=since))
        assert health.enabled == enabled
        assert health.disabled_reason == (None if enabled else "failing")
        assert health.failing_since == since


def test_one_success_begins_the_five_days_anew() -> None:
    failing = replace(HEALTHY, failing_since=NOON - timedelta(days=4))
    _, health = after(attempted(200), health=failing)
    _, health = after(attempted(500), health=health)
    assert health.failing_since == NOON


def test_what_its_owner_disabled_is_not_disabled_again() -> None:
    off = replace(HEALTHY, enabled=False)
    _, health = after(attempted(410), health=off)
    assert health.disabled_reason is None


@pytest.mark.parametrize("status", [410, 429, 500, 200, None])
def test_a_ping_is_attempted_once_and_says_nothing_of_health(status: int | None) -> None:
    failing = replace(HEALTHY, failing_since=NOON)
    progress, health = after(attempted(status, ping=True), health=failing)
    assert progress.status == ("delivered" if status == 200 else "failed")
    assert progress.next_at is None
    assert health == failing


def test_what_is_not_kept_any_more_is_given_up_and_no_fault_of_the_endpoint() -> None:
    failing = replace(HEALTHY, failing_since=NOON - GIVE_UP_ENDPOINT)
    progress, health = after(attempted(None, kept=False), health=failing)
    assert (progress.status, progress.next_at) == ("failed", None)
    assert health == failing


def test_a_failure_under_a_claim_that_lapsed_leaves_the_schedule_to_the_newer_one() -> None:
    begun_anew = replace(PENDING, next_at=NOON + timedelta(minutes=1))
    progress, _ = after(attempted(500), begun_anew)
    assert progress == replace(begun_anew, attempts=1)


def test_a_success_counts_whatever_has_become_of_its_claim() -> None:
    for progress in (
        replace(PENDING, next_at=NOON + timedelta(minutes=1)),
        replace(PENDING, status="failed", next_at=None, attempts=10),
    ):
        now, _ = after(attempted(200), progress)
        assert (now.status, now.next_at) == ("delivered", None)


def test_a_failure_does_not_take_back_what_was_delivered() -> None:
    delivered = Progress(status="delivered", step=0, attempts=1, next_at=None, delivered_at=NOON)
    progress, _ = after(attempted(500), delivered)
    assert progress == replace(delivered, attempts=2)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("Thu, 19 Mar 2026 12:01:00 GMT", 60),
        ("Thu, 19 Mar 2026 12:01:00 -0000", 60),
        ("9" * 5_000, 999_999_999),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: int) -> None:
    assert retry_after(header, NOON) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "0",
        "-5",
        "1.5",
        "soon",
        "٣",
        "Thu, 19 Mar 2026 11:59:00 GMT",
        "Thu, 99 Mar 2026",
        "Thu, 19 Mar 99999999 12:00:00 GMT",
        "\ud800",
    ],
)
def test_a_retry_after_that_means_nothing_is_ignored(header: str | None) -> None:
    assert retry_after(header, NOON) is None


def test_an_answer_is_kept_as_text_whatever_its_bytes() -> None:
    assert response_text(b"caf\xc3\xa9\0\xff!") == "café\ufffd!"
    assert len(response_text(b"x" * 5_000)) == 1_024


EVENT, BODY = UUID(int=7), '{"type":"job.queued","data":{"label":"Größe"}}'


def test_the_reference_library_takes_the_signature_of_each_valid_secret() -> None:
    old, new = b"o" * 24, b"n" * 24
    now = datetime.now(UTC)
    headers = signed_headers(EVENT, BODY.encode(), (new, old), now)
    assert headers["webhook-id"] == str(EVENT)
    for secret in (old, new):
        Webhook(secret).verify(BODY.encode(), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(b"x" * 24).verify(BODY.encode(), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(BODY.encode() + b" ", headers)


def test_the_time_that_is_signed_is_the_same_in_every_time_zone() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    assert signed_headers(EVENT, b"", (b"s",), NOON) == signed_headers(
        EVENT, b"", (b"s",), elsewhere
    )
    assert signed_headers(EVENT, b"", (b"s",), NOON)["webhook-timestamp"] == "1773921600"
