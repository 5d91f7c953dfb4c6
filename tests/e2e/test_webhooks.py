"""Webhooks of the whole platform: what a job does arrives, signed, and nothing is lost for good."""

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from tests.e2e.receiving import Receiver
from tests.support.journey import Json, User, sample_rows
from tests.support.local_stack import eventually

PATIENCE = 90.0  # seconds; the first attempt is made within one
LONG = 5_000  # steps: far more than anyone here waits for

T = TypeVar("T")


def until(read: Callable[[], T], holds: Callable[[T], object]) -> T:
    return eventually(read, holds, PATIENCE, "what was sent")


def post(user: User, path: str, status: int, **body: Any) -> Json:
    answer = user.api.post(f"/v1/webhooks{path}", json=body or None)
    assert answer.status_code == status, answer.text
    told: Json = answer.json()
    return told


def cancelled_job(user: User) -> str:
    """A job that was queued and cancelled."""
    job_id = user.submit_job(user.upload(sample_rows(5)), steps=LONG)
    user.cancel(job_id)
    until(lambda: user.job(job_id)["status"], lambda status: status == "cancelled")
    return job_id


def test_what_a_job_does_arrives_signed_and_as_the_job_was(user: User, receiver: Receiver) -> None:
    made = post(user, "", 201, url=receiver.url)

    job_id = cancelled_job(user)

    events = until(
        lambda: receiver.received(made["secret"]),
        lambda events: {"job.queued", "job.cancelled"} <= {one["type"] for one in events},
    )
    (ended,) = [one["data"] for one in events if one["type"] == "job.cancelled"]
    assert ended == user.job(job_id)
    page = until(
        lambda: user.get(f"/v1/webhooks/{made['id']}/deliveries")["data"],
        lambda rows: rows and all(row["status"] == "delivered" for row in rows),
    )
    assert {row["event_id"] for row in page} <= {h["webhook-id"] for h, _ in receiver.came}
    assert {row["attempts"][0]["status_code"] for row in page} == {200}


def test_a_test_and_a_redelivery_arrive_and_both_secrets_sign_after_a_rotation(
    user: User, receiver: Receiver
) -> None:
    made = post(user, "", 201, url=receiver.url, enabled=False)
    rotated = post(user, f"/{made['id']}/rotate-secret", 200)

    ping = post(user, f"/{made['id']}/test", 202)
    until(lambda: receiver.came, len)
    post(user, f"/{made['id']}/deliveries/{ping['id']}/redeliver", 202)
    until(lambda: receiver.came, lambda came: len(came) == 2)

    for secret in (made["secret"], rotated["secret"]):
        assert [event["data"] for event in receiver.received(secret)] == [
            {"webhook_id": made["id"]}
        ] * 2
    assert {headers["webhook-id"] for headers, _ in receiver.came} == {ping["event_id"]}


def test_what_a_webhook_missed_while_it_was_off_is_recovered(
    user: User, receiver: Receiver
) -> None:
    made = post(user, "", 201, url=receiver.url, event_types=["job.queued", "job.cancelled"])
    receiver.status = 410
    cancelled_job(user)
    (notice,) = until(lambda: user.get("/v1/me")["notices"], len)
    assert notice["webhook_id"] == made["id"]
    cancelled_job(user)

    receiver.status = 200
    receiver.came.clear()
    enabled = user.api.patch(f"/v1/webhooks/{made['id']}", json={"enabled": True}).json()
    assert (enabled["enabled"], enabled["disabled_reason"]) == (True, None)
    assert user.get("/v1/me")["notices"] == []
    post(user, f"/{made['id']}/recover", 202, since=made["created_at"])

    wanted = Counter({"job.queued": 2, "job.cancelled": 2})

    def kinds() -> Counter[str]:
        unique = {
            headers["webhook-id"]: event["type"]
            for (headers, _), event in zip(
                list(receiver.came), receiver.received(made["secret"]), strict=False
            )
        }
        return Counter(unique.values())

    until(kinds, lambda seen: seen == wanted)
