"""A job is followed live: every event once and in order, however often the connection breaks."""

from typing import Any

import msgspec
import pytest

from tests.integration.test_sdk_failures import BUSY, NOW, job
from tests.support.failing_http import RESETS, Answer, Asked, failing_server, refuses
from tests.support.sdk import KINDS, Kind, Sleeps, ask
from tuneyard import APIConnectionError, NotFoundError
from tuneyard.types import DoneEvent, LogEvent, MetricsEvent, StateEvent

POINT = {
    "ts": "2026-11-27T12:00:00Z",
    "step": 1,
    "cycle": 0,
    "phase": "train",
    "loss": 1.5,
    "lr": 0.1,
    "throughput": 10.0,
    "vram_gb": 0.0,
    "grad_norm": 1.0,
}
LINE = {"seq": 1, "ts": "2026-11-27T12:00:00Z", "stream": "stdout", "text": "step 1\r\n: done"}


def notice(status: str) -> dict[str, Any]:
    moment = "2026-11-27T12:00:00Z"
    return {"type": f"job.{status}", "timestamp": moment, "data": job("j", status=status)}


EVENTS: list[tuple[str, Any]] = [
    ("state", notice("queued")),
    ("state", notice("running")),
    ("metrics", {"job_id": "j", "points": [POINT]}),
    ("news", {"of": "a later version"}),
    ("log", {"job_id": "j", "lines": [LINE]}),
    ("metrics", {"job_id": "j", "points": [POINT]}),
    ("done", notice("completed")),
]
TOLD = ["1", "2", "3", "5", "6", "7"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


def written(after: int) -> bytes:
    """The story behind the id ``after``."""
    return b"retry: 0\n\n: hello\n\n" + b"".join(
        b"id: %d\nevent: %s\ndata: %s\n\n" % (n, name.encode(), msgspec.json.encode(data))
        for n, (name, data) in enumerate(EVENTS, 1)
        if n > after
    )


def behind(asked: Asked) -> int:
    return int(asked.headers.get("last-event-id", "0"))


def streamed(body: bytes) -> Answer:
    """Without a length, as a stream is; the end of the connection ends it."""
    kind = {"Content-Type": "text/event-stream"}
    return Answer("200 OK", kind, body, then="close", measured=False)


class Breaking:
    """Cuts each connection off after ``size`` bytes, and more the next time, so it ends."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, asked: Asked) -> Answer:
        self.size += 40
        whole = written(behind(asked))
        cut = whole[: self.size]
        return Answer("200 OK", {}, cut, len(whole) - len(cut) + 100, "close")


async def follow(kind: Kind, url: str, **options: Any) -> list[Any]:
    found = await ask(kind, url, lambda client: client.jobs.stream(job_id="j"), **options)
    assert isinstance(found, list)
    return found


async def test_a_stream_is_typed_and_ends_with_the_job(kind: Kind) -> None:
    async with failing_server(lambda asked: streamed(written(behind(asked)))) as server:
        events = await follow(kind, server.url)

    assert [event.id for event in events] == TOLD
    state, _, metrics, log, _, done = events
    assert isinstance(state, StateEvent)
    assert state.data.data.id == "j"
    assert isinstance(metrics, MetricsEvent)
    assert metrics.data.points[0].loss == 1.5
    assert isinstance(log, LogEvent)
    assert log.data.lines[0].text == "step 1\r\n: done"
    assert isinstance(done, DoneEvent)
    assert (done.data.type, done.data.data.status) == ("job.completed", "completed")
    (asked,) = server.asked
    assert (asked.path, asked.headers["accept"]) == ("/v1/jobs/j/stream", "text/event-stream")


@pytest.mark.parametrize("size", [0, 60, 333, 901])
async def test_wherever_it_breaks_off_each_event_comes_once_and_in_order(
    kind: Kind, size: int
) -> None:
    async with failing_server(Breaking(size)) as server:
        events = await follow(kind, server.url, seams=Sleeps().seams(monotonic=Clock().monotonic))

    assert [event.id for event in events] == TOLD
    assert len(server.asked) > 1


class Clock:
    """Each connection seems to have lasted for long enough to count as a good one."""

    at = 0.0

    def monotonic(self) -> float:
        self.at += 60.0
        return self.at


async def test_an_end_without_done_and_refusals_for_the_moment_are_gone_behind(kind: Kind) -> None:
    limited = refuses("429 Too Many Requests", "too_many_streams", Retry_After="5")
    whole = written(0)
    answers = [BUSY, streamed(whole[: whole.index(b"id: 4")]), RESETS, limited]
    sleeps = Sleeps()
    async with failing_server(
        lambda asked: answers.pop(0) if answers else streamed(written(behind(asked)))
    ) as server:
        events = await follow(kind, server.url, seams=sleeps.seams())

    assert [event.id for event in events] == TOLD
    assert [behind(asked) for asked in server.asked] == [0, 0, 3, 3, 3]
    assert sleeps[-1] == 5.0


async def test_a_server_that_says_nothing_is_given_up_and_not_hammered(kind: Kind) -> None:
    sleeps = Sleeps()
    empty = streamed(b"retry: 2000\n\n: hello\n\n")
    async with failing_server(lambda _: empty) as server:
        with pytest.raises(APIConnectionError):
            await follow(kind, server.url, seams=sleeps.seams(now=lambda: NOW))

    assert len(server.asked) == 11
    assert min(sleeps) >= 2.0
    assert max(sleeps) == 8.0


async def test_a_refusal_is_told_at_once(kind: Kind) -> None:
    async with failing_server(lambda _: refuses("404 Not Found", "not_found")) as server:
        with pytest.raises(NotFoundError):
            await follow(kind, server.url)

    assert len(server.asked) == 1


async def test_a_job_whose_end_was_heard_already_has_nothing_more_to_say(kind: Kind) -> None:
    async with failing_server(lambda _: Answer("204 No Content")) as server:
        events = await ask(
            kind, server.url, lambda client: client.jobs.stream(job_id="j", last_event_id="7")
        )

    assert events == []
    assert server.asked[0].headers["last-event-id"] == "7"


async def test_all_jobs_are_followed_past_the_end_of_one(kind: Kind) -> None:
    answers = [streamed(written(0)), refuses("403 Forbidden", "insufficient_scope")]
    seen: list[str] = []

    def blocking(client: Any) -> None:
        for event in client.jobs.stream_all(types=["state", "done"]):
            seen.append(event.id)

    async def asynchronous(client: Any) -> None:
        async for event in client.jobs.stream_all(types=["state", "done"]):
            seen.append(event.id)

    async with failing_server(lambda _: answers.pop(0)) as server:
        work = blocking if kind == "blocking" else asynchronous
        with pytest.raises(Exception, match="insufficient_scope"):
            await ask(kind, server.url, work, seams=Sleeps().seams())

    assert seen == TOLD
    assert server.asked[0].path == "/v1/stream?types=state%2Cdone"
    assert server.asked[1].headers["last-event-id"] == "7"
