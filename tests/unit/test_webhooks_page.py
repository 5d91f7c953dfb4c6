"""docs/webhooks.md is true: its example is a notice, and its code knows what is genuine."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from libs.contracts.webhooks_rpc import EventType
from libs.jobstate.notice import NOTICE_TYPES, Notice
from services.webhooks.secrets import shown

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
SECRET, ANOTHER = shown(bytes(range(32))), shown(bytes(32))
MESSAGE = "e5a1b7d8-0b5f-4c1d-9d7e-0a8e1c6d2f11"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def judged_by_library(received: Callable[..., Any]) -> Callable[..., bool]:
    def judge(secret: str, headers: dict[str, str], body: bytes) -> bool:
        try:
            return bool(received(secret, headers, body) == msgspec.json.decode(body))
        except WebhookVerificationError:
            return False

    return judge


@pytest.fixture(params=["by library", "by hand"])
def judge(request: pytest.FixtureRequest) -> Callable[..., bool]:
    library, by_hand = blocks("python")
    names: dict[str, Any] = {}
    exec(library + by_hand, names)
    if request.param == "by library":
        return judged_by_library(names["received"])
    is_genuine: Callable[..., bool] = names["is_genuine"]
    return is_genuine


def signed(body: bytes, *secrets: str, age: float = 0.0) -> dict[str, str]:
    """As the specification's own library signs."""
    at = datetime.fromtimestamp(time.time() - age, UTC)
    signatures = [
        Webhook(secret).sign(msg_id=MESSAGE, timestamp=at, data=body.decode()) for secret in secrets
    ]
    return {
        "webhook-id": MESSAGE,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def example() -> bytes:
    (text,) = blocks("json")
    return text.encode()


def test_the_example_is_a_notice_and_leaves_nothing_out() -> None:
    notice = msgspec.json.decode(example(), type=Notice)

    def fields(value: Any) -> set[str]:
        return set(msgspec.json.decode(msgspec.json.encode(value)))

    shown_fields = msgspec.json.decode(example())
    assert set(shown_fields) == fields(notice)
    assert set(shown_fields["data"]) == fields(notice.data)
    assert notice.data.status == "completed"


def test_every_event_type_is_named_and_can_be_asked_for() -> None:
    assert set(EventType.__args__) == set(NOTICE_TYPES.values())
    assert [kind for kind in NOTICE_TYPES.values() if f"`{kind}`" not in PAGE] == []


def test_a_genuine_event_is_taken(judge: Callable[..., bool]) -> None:
    body = example()

    assert judge(SECRET, signed(body, SECRET), body)
    assert judge(SECRET, signed(body, ANOTHER, SECRET), body)


def test_an_event_of_another_or_changed_or_old_is_not(judge: Callable[..., bool]) -> None:
    body = example()

    assert not judge(SECRET, signed(body, ANOTHER), body)
    assert not judge(SECRET, signed(body, SECRET), body.replace(b"completed", b"cancelled"))
    assert not judge(SECRET, signed(body, SECRET) | {"webhook-id": "another"}, body)
    assert not judge(SECRET, signed(body, SECRET, age=600.0), body)
