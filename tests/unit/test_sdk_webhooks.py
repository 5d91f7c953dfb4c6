"""Webhooks are told from forgeries as Standard Webhooks 1.0.0 has it; its library signs here."""

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from tests.unit.test_sdk_covers import DOCUMENT
from tuneyard import AsyncTuneyard, Tuneyard, TuneyardError, WebhookVerificationError
from tuneyard.webhooks import unwrap

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(32)).decode()
JOB = DOCUMENT["paths"]["/v1/jobs"]["post"]["responses"]["201"]["content"]["application/json"][
    "example"
]
BODY = msgspec.json.encode(
    {"type": "job.completed", "timestamp": "2026-11-27T12:00:00Z", "data": JOB}
)
Headers = dict[str, str]


def signed(body: bytes = BODY, secret: str = SECRET, at: datetime = NOW) -> Headers:
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", at, body.decode()),
    }


def signed_by_hand(body: bytes, time: str) -> Headers:
    """Of what the library would not sign."""
    digest = hmac.digest(bytes(range(32)), f"msg_1.{time}.".encode() + body, hashlib.sha256)
    signature = "v1," + base64.b64encode(digest).decode()
    return {"webhook-id": "msg_1", "webhook-timestamp": time, "webhook-signature": signature}


def test_what_the_platform_signed_is_the_event() -> None:
    event = unwrap(BODY, signed(), SECRET, now=NOW)
    assert (event.id, event.type) == ("msg_1", "job.completed")
    assert event.timestamp == NOW
    assert event.job is not None
    assert event.job.id == JOB["id"]
    assert event.data == JOB
    assert unwrap(BODY.decode(), signed(), SECRET, now=NOW) == event


def test_headers_are_found_in_any_case() -> None:
    headers = {name.title(): of for name, of in signed().items()}
    assert unwrap(BODY, headers, SECRET, now=NOW).id == "msg_1"


def test_while_a_secret_is_rotated_either_signature_is_good() -> None:
    new, old = signed(), signed(secret=OTHER)
    both = f"{new['webhook-signature']} v1a,bm90IG91cnM= {old['webhook-signature']}"
    for secret in (SECRET, OTHER):
        assert unwrap(BODY, new | {"webhook-signature": both}, secret, now=NOW)


def test_a_type_that_is_newer_than_the_sdk_comes_without_a_job() -> None:
    body = msgspec.json.encode({"type": "ping", "timestamp": "2026-11-27T12:00:00Z", "data": {}})
    event = unwrap(body, signed(body), SECRET, now=NOW)
    assert (event.type, event.job, event.data) == ("ping", None, {})


FORGERIES: dict[str, Callable[[Headers], Headers]] = {
    "another secret": lambda _: signed(secret=OTHER),
    "another body": lambda _: signed(b"{}"),
    "another id": lambda good: good | {"webhook-id": "msg_2"},
    "another time": lambda good: good | {"webhook-timestamp": str(int(NOW.timestamp()) + 1)},
    "no signature": lambda good: good | {"webhook-signature": ""},
    "a signature that is no base64": lambda good: good | {"webhook-signature": "v1,%%%"},
    "of another version": lambda good: (
        good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")}
    ),
    "no id": lambda good: {name: of for name, of in good.items() if name != "webhook-id"},
    "a cut signature": lambda good: good | {"webhook-signature": good["webhook-signature"][:-4]},
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_is_refused(forge: Callable[[Headers], Headers]) -> None:
    with pytest.raises(WebhookVerificationError):
        unwrap(BODY, forge(signed()), SECRET, now=NOW)


@pytest.mark.parametrize("off", [timedelta(minutes=5), -timedelta(minutes=5)])
def test_five_minutes_are_the_most_that_a_clock_may_be_off(off: timedelta) -> None:
    at = NOW + off
    assert unwrap(BODY, signed(at=at), SECRET, now=NOW)
    farther = at + off / 300
    with pytest.raises(WebhookVerificationError, match="seconds"):
        unwrap(BODY, signed(at=farther), SECRET, now=NOW)


@pytest.mark.parametrize("time", ["soon", "", "1e9", "-1", "9" * 400, "١٢٣"])
def test_a_time_that_is_none_is_refused_though_it_is_signed(time: str) -> None:
    with pytest.raises(WebhookVerificationError, match="time"):
        unwrap(BODY, signed_by_hand(BODY, time), SECRET, now=NOW)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"type": 1}', b"\xff", b"[" * 100_000])
def test_what_is_signed_and_no_event_is_refused(body: bytes) -> None:
    headers = signed_by_hand(body, str(int(NOW.timestamp())))
    with pytest.raises(WebhookVerificationError, match="can't be read"):
        unwrap(body, headers, SECRET, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%%%", "whsec_ü"])
def test_a_secret_that_is_none_is_our_own_mistake_and_no_forgery(secret: str) -> None:
    with pytest.raises(TuneyardError) as told:
        unwrap(BODY, signed(), secret, now=NOW)
    assert not isinstance(told.value, WebhookVerificationError)


@given(st.binary(min_size=1, max_size=64), st.text(max_size=50), st.integers(-400, 400))
def test_it_agrees_with_the_library(key: bytes, text: str, off: int) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = msgspec.json.encode({"type": text, "timestamp": "2026-11-27T12:00:00Z", "data": {}})
    headers = signed(body, secret, NOW + timedelta(seconds=off))
    try:
        told = unwrap(body, headers, secret, now=NOW).type
    except WebhookVerificationError:
        assert abs(off) > 300 or text.startswith("job.")
    else:
        assert (told, abs(off) <= 300) == (text, True)


async def test_both_clients_unwrap() -> None:
    headers = signed(at=datetime.now(UTC))
    with Tuneyard(api_key="k", base_url="http://there") as client:
        assert client.webhooks.unwrap(BODY, headers, SECRET).id == "msg_1"
    async with AsyncTuneyard(api_key="k", base_url="http://there") as other:
        assert other.webhooks.unwrap(BODY, headers, SECRET).id == "msg_1"
