"""The SDK against a server that fails in every way: nothing is done twice, and nothing is lost."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.failing_http import (
    RESETS,
    SILENT,
    Answer,
    Asked,
    failing_server,
    half,
    refuses,
    says,
)
from tests.support.sdk import KEY, KINDS, Kind, Sleeps, ask
from tuneyard import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AsyncTuneyard,
    ConflictError,
    InsufficientBalanceError,
    NotFoundError,
    RateLimitError,
    ResponseError,
    ServerError,
    ServiceUnavailableError,
    WaitTimeoutError,
)
from tuneyard._seams import Seams
from tuneyard.types import Job

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
BUSY = refuses("503 Service Unavailable", "service_unavailable")
WAITING = refuses("429 Too Many Requests", "rate_limited", Retry_After="7")
MISTAKES = {
    "limited": WAITING,
    "in progress": refuses("409 Conflict", "idempotency_in_progress", Retry_After="1"),
    "timed out on its side": refuses("408 Request Timeout", "http_408"),
    "broken": refuses("500 Internal Server Error", "internal_error"),
    "behind a dead proxy": Answer("502 Bad Gateway", {}, b"<html>bad gateway</html>"),
    "busy": BUSY,
    "too slow": Answer("504 Gateway Timeout", {}, b""),
    "reset": RESETS,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


def job(job_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": job_id,
        "type": "contract",
        "status": "queued",
        "retries": 0,
        "last_checkpoint_step": 0,
        "output_model_id": None,
        "started_at": None,
        "finished_at": None,
        "created_at": "2026-11-27T12:00:00Z",
        "surface": "jobs",
        "base_model": {"id": "m", "slug": "tiny"},
        "dataset_id": None,
        "label": None,
        "output_name": None,
        "hyperparams": {},
        "recommended": [],
        "start_from": None,
        "validation_dataset_id": None,
        "steps_total": 1,
        "tokens_planned": 1,
        "tokens_processed": 0,
        "priority_processing": False,
        "cancel_requested": False,
        "price_cents": 1,
        "charge_cents": None,
        "currency": "USD",
        "artifacts_expires_at": None,
        "error": None,
    } | changes


class Desk:
    """Creates jobs as the platform does, one a key, and has some of its answers spoilt."""

    def __init__(self, *spoilt: Answer | Callable[[Answer], Answer]) -> None:
        self.jobs: dict[str, str] = {}
        self._spoilt = list(spoilt)

    def __call__(self, asked: Asked) -> Answer:
        key = asked.json["idempotency_key"]
        self.jobs.setdefault(key, str(uuid4()))
        good = says(job(self.jobs[key]), "201 Created")
        if not self._spoilt:
            return good
        spoil = self._spoilt.pop(0)
        return spoil if isinstance(spoil, Answer) else spoil(good)


def create(client: Any) -> Any:
    return client.jobs.create(type="contract", base_model_id="tiny")


@pytest.mark.parametrize("mistake", [*MISTAKES.values(), half], ids=[*MISTAKES, "half a body"])
async def test_a_call_makes_one_job_however_its_first_two_answers_fail(
    kind: Kind, mistake: Answer | Callable[[Answer], Answer]
) -> None:
    desk, sleeps = Desk(mistake, mistake), Sleeps()
    async with failing_server(desk) as server:
        made: Job = await ask(kind, server.url, create, seams=sleeps.seams())

    assert list(desk.jobs.values()) == [made.id]
    assert len(server.asked) == 3
    assert len({asked.body for asked in server.asked}) == 1
    assert len(sleeps) == 2


async def test_each_call_has_a_key_of_its_own(kind: Kind) -> None:
    desk = Desk()
    async with failing_server(desk) as server:
        await ask(kind, server.url, create)
        await ask(kind, server.url, create)

    assert len(desk.jobs) == 2


async def test_a_key_that_is_given_is_the_one_that_is_sent(kind: Kind) -> None:
    desk = Desk(RESETS)
    async with failing_server(desk) as server:
        await ask(
            kind,
            server.url,
            lambda client: client.jobs.create(
                type="contract", base_model_id="tiny", idempotency_key="mine"
            ),
            seams=Sleeps().seams(),
        )

    assert set(desk.jobs) == {"mine"}


async def test_what_goes_on_failing_is_told_after_two_repetitions(kind: Kind) -> None:
    sleeps = Sleeps()
    async with failing_server(lambda _: BUSY) as server:
        with pytest.raises(ServiceUnavailableError) as told:
            await ask(kind, server.url, create, seams=sleeps.seams())

    assert len(server.asked) == 3
    assert (told.value.status, told.value.code) == (503, "service_unavailable")
    assert told.value.request_id == "req-1"
    assert sleeps == [0.5, 1.0]


async def test_retry_after_is_kept_in_seconds_and_as_a_date(kind: Kind) -> None:
    later = format_datetime(NOW + timedelta(seconds=9), usegmt=True)
    desk = Desk(WAITING, refuses("503 Service Unavailable", "x", Retry_After=later))
    sleeps = Sleeps()
    async with failing_server(desk) as server:
        await ask(kind, server.url, create, seams=sleeps.seams(now=lambda: NOW))

    assert sleeps == [7.0, 9.0]


async def test_who_shall_wait_for_an_hour_is_told_instead(kind: Kind) -> None:
    sleeps = Sleeps()
    hour = refuses("429 Too Many Requests", "rate_limited", Retry_After="3600")
    async with failing_server(lambda _: hour) as server:
        with pytest.raises(RateLimitError) as told:
            await ask(kind, server.url, create, seams=sleeps.seams())

    assert told.value.retry_after == 3600
    assert len(server.asked) == 1
    assert sleeps == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refuses("402 Payment Required", "insufficient_balance"), InsufficientBalanceError),
        (refuses("409 Conflict", "idempotency_conflict"), ConflictError),
        (refuses("418 I'm a teapot", "new_code"), APIError),
        (refuses("301 Moved Permanently", "moved", Location="http://localhost:1/"), APIError),
    ],
)
async def test_a_refusal_is_not_repeated(kind: Kind, answer: Answer, error: type[APIError]) -> None:
    async with failing_server(lambda _: answer) as server:
        with pytest.raises(error):
            await ask(kind, server.url, create)

    assert len(server.asked) == 1


async def test_half_an_answer_to_a_read_is_asked_for_again(kind: Kind) -> None:
    answers = [half(says(job("j"))), RESETS, says(job("j"))]
    async with failing_server(lambda _: answers.pop(0)) as server:
        found = await ask(
            kind, server.url, lambda client: client.jobs.get(job_id="j"), seams=Sleeps().seams()
        )

    assert found.id == "j"
    assert [asked.path for asked in server.asked] == ["/v1/jobs/j"] * 3


async def test_silence_ends_with_the_timeout(kind: Kind) -> None:
    async with failing_server(lambda _: SILENT) as server:
        with pytest.raises(APITimeoutError):
            await ask(
                kind,
                server.url,
                lambda client: client.jobs.get(job_id="j"),
                seams=Sleeps().seams(),
                timeout=0.5,
            )

    assert len(server.asked) == 3


async def test_nobody_there_is_a_connection_error(kind: Kind) -> None:
    async with failing_server(lambda _: BUSY) as server:
        pass
    sleeps = Sleeps()
    with pytest.raises(APIConnectionError) as told:
        await ask(kind, server.url, create, seams=sleeps.seams())

    assert len(sleeps) == 2
    assert KEY not in str(told.value)


async def test_without_retries_the_first_failure_is_told(kind: Kind) -> None:
    async with failing_server(lambda _: BUSY) as server:
        with pytest.raises(ServerError):
            await ask(kind, server.url, lambda client: create(client.with_options(max_retries=0)))

    assert len(server.asked) == 1


async def test_an_upload_that_breaks_off_is_sent_again_whole_under_one_key(kind: Kind) -> None:
    dataset = {
        "id": "d",
        "name": "n",
        "filename": None,
        "kind": "text",
        "rows": 1,
        "tokens": 1,
        "size_bytes": 1,
        "sha256": "",
        "created_at": "2026-11-27T12:00:00Z",
    }
    answers = [RESETS, half(says(dataset)), says(dataset, "201 Created")]
    rows = b'{"text": "hello"}\n' * 40_000
    async with failing_server(lambda _: answers.pop(0)) as server:
        made = await ask(
            kind,
            server.url,
            lambda client: client.datasets.create(file=rows, name="n"),
            seams=Sleeps().seams(),
        )

    assert made.id == "d"
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
    assert len({asked.body for asked in server.asked}) == 1
    assert rows in server.asked[-1].body
    assert "transfer-encoding" not in server.asked[-1].headers


async def test_an_answer_of_something_else_is_told_as_such(kind: Kind) -> None:
    page = Answer("200 OK", {"Content-Type": "text/html"}, b"<html>log in</html>")
    async with failing_server(lambda _: page) as server:
        with pytest.raises(ResponseError, match="base_url"):
            await ask(kind, server.url, lambda client: client.me.get())


async def test_fields_and_values_that_are_newer_than_the_sdk_do_no_harm(kind: Kind) -> None:
    new = job("j", status="paused", type="distil", region="eu", hyperparams={"depth": 3})
    async with failing_server(lambda _: says(new)) as server:
        found = await ask(kind, server.url, lambda client: client.jobs.get(job_id="j"))

    assert (found.status, found.type) == ("paused", "distil")


async def test_a_list_that_names_the_same_place_again_ends(kind: Kind) -> None:
    page = {"data": [job("j")], "next_cursor": "same", "has_more": True}
    async with failing_server(lambda _: says(page)) as server:
        found = await ask(kind, server.url, lambda client: client.jobs.list())

    assert len(found) == 2
    assert [asked.path for asked in server.asked] == ["/v1/jobs", "/v1/jobs?cursor=same"]


async def test_waiting_ends_with_the_job(kind: Kind) -> None:
    answers = [says(job("j", status=of)) for of in ("queued", "running", "failed")]
    sleeps = Sleeps()
    async with failing_server(lambda _: answers.pop(0)) as server:
        ended = await ask(
            kind,
            server.url,
            lambda client: client.jobs.wait(job_id="j", poll=3.0),
            seams=sleeps.seams(),
        )

    assert ended.status == "failed"
    assert sleeps == [3.0, 3.0]


async def test_waiting_outlasts_a_restart_of_the_platform(kind: Kind) -> None:
    away = [RESETS, BUSY, RESETS, BUSY, RESETS, BUSY, WAITING, BUSY, BUSY]
    answers = [says(job("j")), *away, says(job("j", status="completed"))]
    async with failing_server(lambda _: answers.pop(0)) as server:
        ended = await ask(
            kind,
            server.url,
            lambda client: client.jobs.wait(job_id="j"),
            seams=Sleeps().seams(),
        )

    assert ended.status == "completed"


async def test_waiting_for_a_job_that_there_is_not_ends_at_once(kind: Kind) -> None:
    async with failing_server(lambda _: refuses("404 Not Found", "not_found")) as server:
        with pytest.raises(NotFoundError):
            await ask(kind, server.url, lambda client: client.jobs.wait(job_id="j"))

    assert len(server.asked) == 1


async def test_waiting_has_an_end_of_its_own(kind: Kind) -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    seams = Seams(sleep=sleep, monotonic=lambda: clock[0])
    async with failing_server(lambda _: says(job("j", status="running"))) as server:
        with pytest.raises(WaitTimeoutError, match="running"):
            await ask(
                kind,
                server.url,
                lambda client: client.jobs.wait(job_id="j", timeout=60, poll=10),
                seams=seams,
            )

    assert len(server.asked) == 7
    assert clock == [60.0]


async def test_a_client_of_ones_own_is_used_and_left_open() -> None:
    async with (
        failing_server(lambda _: says(job("j"))) as server,
        httpx.AsyncClient(headers={"X-Mine": "yes"}) as mine,
    ):
        async with AsyncTuneyard(api_key=KEY, base_url=server.url, http_client=mine) as client:
            await client.jobs.get(job_id="j")
        assert not mine.is_closed

    assert server.asked[0].headers["x-mine"] == "yes"
