"""A deletion of which the answer was lost: done, and said to be, however often it is asked for."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.failing_http import (
    RESETS,
    SILENT,
    Answer,
    failing_server,
    half,
    refuses,
    says,
)
from tests.support.sdk import KINDS, Kind, Sleeps, ask
from tuneyard import APIError, AuthenticationError, NotFoundError
from tuneyard.types import Deleted

ID = "0b5f2b0e-54c1-5b0e-8d7e-0a8e1c6d2f11"
GONE = says({"id": ID, "deleted": True})
NOT_FOUND = refuses("404 Not Found", "not_found", X_Request_Id="req-2")
SHORT, LONG = 2.0, 60.0  # seconds; who is silent is waited for, who comes next is not missed
UNKNOWN = {
    "reset": RESETS,
    "half a body": half(GONE),
    "silence": SILENT,
    "broken": refuses("500 Internal Server Error", "internal_error"),
    "behind a dead proxy": Answer("502 Bad Gateway", {}, b"<html>bad gateway</html>"),
    "busy": refuses("503 Service Unavailable", "service_unavailable"),
    "too slow": Answer("504 Gateway Timeout", {}, b""),
}
CALLS: dict[str, Callable[[Any], Any]] = {
    "datasets": lambda client: client.datasets.delete(dataset_id=ID),
    "api_keys": lambda client: client.api_keys.delete(key_id=ID),
    "webhooks": lambda client: client.webhooks.delete(webhook_id=ID),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


async def told(kind: Kind, answers: list[Answer], call: Callable[[Any], Any]) -> Any:
    """What the call comes to, when a server gives these answers and no others."""
    timeout = SHORT if SILENT in answers else LONG
    async with failing_server(lambda _: answers.pop(0)) as server:
        try:
            return await ask(kind, server.url, call, seams=Sleeps().seams(), timeout=timeout)
        finally:
            assert answers == []


@pytest.mark.parametrize("lost", UNKNOWN.values(), ids=UNKNOWN)
async def test_what_is_gone_after_an_answer_that_was_lost_is_deleted(
    kind: Kind, lost: Answer
) -> None:
    for call in CALLS.values():
        assert await told(kind, [lost, NOT_FOUND], call) == Deleted(id=ID, deleted=True)


async def test_an_answer_that_was_lost_two_tries_before_is_one_that_was_lost(kind: Kind) -> None:
    limited = refuses("429 Too Many Requests", "rate_limited", Retry_After="1")
    gone = await told(kind, [RESETS, limited, NOT_FOUND], CALLS["datasets"])
    assert gone == Deleted(id=ID, deleted=True)


async def test_what_never_was_there_is_not_found(kind: Kind) -> None:
    with pytest.raises(NotFoundError):
        await told(kind, [NOT_FOUND], CALLS["datasets"])


async def test_a_try_that_was_refused_unread_has_deleted_nothing(kind: Kind) -> None:
    limited = refuses("429 Too Many Requests", "rate_limited", Retry_After="1")
    with pytest.raises(NotFoundError):
        await told(kind, [limited, NOT_FOUND], CALLS["datasets"])


async def test_a_404_of_something_else_than_the_platform_says_nothing(kind: Kind) -> None:
    page = Answer("404 Not Found", {"Content-Type": "text/html"}, b"<html>no such page</html>")
    with pytest.raises(APIError) as error:
        await told(kind, [RESETS, page], CALLS["datasets"])
    assert error.value.code == "http_404"


async def test_a_refused_key_does_not_say_that_the_one_which_it_deletes_is_gone(kind: Kind) -> None:
    """It may be its own, and gone; or another one, and alive."""
    refused = refuses("401 Unauthorized", "invalid_api_key")
    with pytest.raises(AuthenticationError):
        await told(kind, [RESETS, refused], CALLS["api_keys"])


async def test_what_is_read_or_changed_and_not_there_is_not_found_however_often_it_was_tried(
    kind: Kind,
) -> None:
    for call in (
        lambda client: client.webhooks.get(webhook_id=ID),
        lambda client: client.webhooks.update(webhook_id=ID, enabled=True),
    ):
        with pytest.raises(NotFoundError):
            await told(kind, [RESETS, NOT_FOUND], call)


async def test_with_its_headers_it_is_a_deletion_too_and_says_which_request_found_it_gone(
    kind: Kind,
) -> None:
    raw = await told(
        kind,
        [RESETS, NOT_FOUND],
        lambda client: client.datasets.with_raw_response.delete(dataset_id=ID),
    )
    assert (raw.status, raw.request_id) == (200, "req-2")
    assert raw.parse() == Deleted(id=ID, deleted=True)
