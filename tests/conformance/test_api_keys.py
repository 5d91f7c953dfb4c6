"""What the documents say of API keys: how they look, how many there may be, how they end."""

from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from tests.conformance.conftest import TIMEOUT, Platform
from tests.conformance.shapes import BOOL, TEXT, TIME, UUID_TEXT, Kind, expect, nullable, refused
from tests.conformance.terminal import KEY
from tests.conformance.test_runs_api import BALANCE, GET_BALANCE
from tests.support.local_stack import LocalStack

ACTIVE_KEYS = 3
SHOWN = {
    "id": UUID_TEXT,
    "name": TEXT,
    "prefix": Kind("a key's beginning", lambda value: value.startswith("tuneyard_")),
    "created_at": TIME,
    "last_used_at": nullable(TIME),
}
CREATED = SHOWN | {"key": Kind("a key", lambda value: value.startswith("tuneyard_"))}
LIST = {"data": [SHOWN], "next_cursor": nullable(TEXT), "has_more": BOOL}


@pytest.fixture(scope="module")
def first_key(stack: LocalStack) -> str:
    """The only key of an account of its own."""
    _, key = stack.new_account(0)
    return key


@pytest.fixture
def admin(stack: LocalStack, first_key: str) -> Iterator[httpx.Client]:
    """The account's client; every key that a test made is deleted behind it."""
    headers = {"Authorization": f"Bearer {first_key}"}
    with httpx.Client(base_url=stack.base_url, headers=headers, timeout=TIMEOUT) as client:
        kept = {key["id"] for key in client.get("/v1/api-keys").json()["data"]}
        yield client
        for key in client.get("/v1/api-keys").json()["data"]:
            if key["id"] not in kept:
                client.delete(f"/v1/api-keys/{key['id']}").raise_for_status()


def test_a_key_is_shown_once_and_works(
    platform: Platform, admin: httpx.Client, first_key: str
) -> None:
    made = expect(admin.post("/v1/api-keys", json={"name": "laptop"}), 201, CREATED)
    listed = expect(admin.get("/v1/api-keys"), 200, LIST)["data"]
    assert [key["name"] for key in listed][:1] == ["laptop"]
    assert made["key"] not in admin.get("/v1/api-keys").text
    expect(platform.terminal.run(GET_BALANCE, {KEY: made["key"]}), 200, BALANCE)


def test_a_deleted_key_is_refused_by_the_very_next_request(
    platform: Platform, admin: httpx.Client
) -> None:
    made = expect(admin.post("/v1/api-keys", json={"name": "lost"}), 201, CREATED)
    words = {KEY: made["key"]}
    expect(platform.terminal.run(GET_BALANCE, words), 200, BALANCE)
    deleted = admin.delete(f"/v1/api-keys/{made['id']}")
    expect(deleted, 200, {"id": made["id"], "deleted": True})
    refused(platform.terminal.run(GET_BALANCE, words), 401, "invalid_api_key")
    assert made["id"] not in admin.get("/v1/api-keys").text


def test_an_account_has_at_most_three_active_keys(admin: httpx.Client) -> None:
    for _ in range(ACTIVE_KEYS - 1):
        last = expect(admin.post("/v1/api-keys", json={"name": "one more"}), 201, CREATED)
    refused(admin.post("/v1/api-keys", json={"name": "too many"}), 409, "api_key_limit")
    admin.delete(f"/v1/api-keys/{last['id']}").raise_for_status()
    expect(admin.post("/v1/api-keys", json={"name": "room again"}), 201, CREATED)


def test_a_key_that_may_only_read_cannot_submit(platform: Platform, admin: httpx.Client) -> None:
    wanted = {"name": "reader", "scopes": ["read"]}
    made = expect(admin.post("/v1/api-keys", json=wanted), 201, CREATED)
    headers = {"Authorization": f"Bearer {made['key']}"}
    with httpx.Client(base_url=platform.stack.base_url, headers=headers, timeout=TIMEOUT) as reader:
        assert reader.get("/v1/jobs").status_code == 200
        body = {
            "type": "contract",
            "idempotency_key": str(uuid4()),
            "source_model_id": "tiny-llama",
        }
        refused(reader.post("/v1/jobs", json=body), 403, "insufficient_scope")
