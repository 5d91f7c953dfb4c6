"""What a call sends, when it is sent again, and what is refused before anything is sent."""

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard import Tuneyard, TuneyardError, errors
from tuneyard._call import Call, Options, Route, request_of
from tuneyard._effects import Response, Send, Sleep
from tuneyard._form import Form, source_of
from tuneyard._retry import LONGEST_PAUSE, backoff, pause_after, retry_after
from tuneyard._seams import Seams
from tuneyard.resources.jobs import Jobs
from tuneyard.types import FinetuneHyperparams, StartFrom

KEYS = Seams(new_key=lambda: "made-here", random=lambda: 0.0)
OPTIONS = Options("http://there/prefix", "tuneyard_secret", 60.0, 2, KEYS)
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
JOBS = Route("POST", "/v1/jobs", key="body")


def api_error(status: int, code: str = "x", wait: float | None = None) -> errors.APIError:
    body = msgspec.json.encode({"error": {"code": code, "message": "m", "request_id": "r"}})
    return errors.error_of(status, {}, body, wait)


def test_the_path_is_below_the_base_url_and_its_values_are_quoted() -> None:
    call: Call[Any] = Call(path={"job_id": "a/b?c"}, query={"limit": 3, "cursor": None})
    request = request_of(OPTIONS, Route("GET", "/v1/jobs/{job_id}"), call)
    assert request.url == "http://there/prefix/v1/jobs/a%2Fb%3Fc?limit=3"
    assert request.headers["Authorization"] == "Bearer tuneyard_secret"


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_an_id_that_would_name_another_path_is_refused(value: str) -> None:
    with pytest.raises(TuneyardError, match="no id"):
        request_of(OPTIONS, Route("GET", "/v1/jobs/{job_id}"), Call(path={"job_id": value}))


def test_only_what_was_given_is_in_the_body() -> None:
    call = Jobs.create.call(
        type="finetune",
        base_model_id="tiny",
        dataset_id="d",
        start_from=StartFrom(job_id="j"),
        hyperparams=FinetuneHyperparams(steps=3, seed=None),
    )
    body = msgspec.json.decode(request_of(OPTIONS, JOBS, call).body)  # type: ignore[arg-type]
    assert body == {
        "type": "finetune",
        "base_model_id": "tiny",
        "dataset_id": "d",
        "start_from": {"job_id": "j"},
        "hyperparams": {"steps": 3, "seed": None},
        "idempotency_key": "made-here",
    }


def test_a_key_in_the_header_is_made_once_or_the_callers_own() -> None:
    route = Route("POST", "/v1/api-keys", key="header")
    made = request_of(OPTIONS, route, Call(body={}))
    own = request_of(OPTIONS, route, Call(body={}, key="own"))
    assert made.headers["Idempotency-Key"] == "made-here"
    assert own.headers["Idempotency-Key"] == "own"
    for bad in ("", "ü", "a\nb"):
        with pytest.raises(TuneyardError, match="idempotency_key"):
            request_of(OPTIONS, route, Call(body={}, key=bad))


def driven(*answers: Response | Exception, route: Route) -> tuple[Any, list[Any]]:
    """What a call comes to, and all that it did on the way."""
    from tuneyard._call import exchange

    flow, done, left = exchange(OPTIONS, route, Call()), [], list(answers)
    said: Any = None
    while True:
        try:
            effect = flow.throw(said) if isinstance(said, Exception) else flow.send(said)
        except StopIteration as end:
            return end.value, done
        except errors.TuneyardError as error:
            return error, done
        done.append(effect)
        said = left.pop(0) if isinstance(effect, Send) else None


def test_a_call_is_a_flow_that_a_test_can_play_the_world_for() -> None:
    lost = errors.APIConnectionError("lost", sent=True)
    result, done = driven(lost, Response(200, {}, b"{}"), route=Route("GET", "/v1/me"))
    assert result == Response(200, {}, b"{}")
    assert [type(effect) for effect in done] == [Send, Sleep, Send]
    assert done[0].request is done[2].request


UNKEYED = Route("POST", "/v1/x")
"""A POST that may have been done, and would be done again."""


@pytest.mark.parametrize(
    ("failure", "repeated"),
    [
        (errors.APIConnectionError("refused", sent=False), True),
        (errors.APIConnectionError("reset", sent=True), False),
        (Response(429, {}, b""), True),
        (Response(503, {}, b""), False),
    ],
)
def test_what_may_have_been_done_is_repeated_only_under_a_key(
    failure: Response | Exception, repeated: bool
) -> None:
    good = Response(200, {}, b"{}")
    result, _ = driven(failure, good, route=UNKEYED)
    assert (result == good) is repeated
    result, _ = driven(failure, good, route=Route("POST", "/v1/x", key="header"))
    assert result == good


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_worth_repeating(status: int) -> None:
    assert pause(api_error(status)) == 0.5


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 501])
def test_what_stays_is_not(status: int) -> None:
    assert pause(api_error(status)) is None


def test_a_conflict_is_repeated_while_the_first_request_is_worked_on() -> None:
    assert pause(api_error(409, "idempotency_in_progress", 1.0)) == 1.0
    assert pause(api_error(409, "idempotency_conflict")) is None


def pause(error: errors.APIError, tries: int = 1) -> float | None:
    return pause_after(error, tries, max_retries=2, repeatable=True, random=lambda: 0.0)


def test_two_repetitions_and_no_more() -> None:
    assert [pause(api_error(503), tries) for tries in (1, 2, 3)] == [0.5, 1.0, None]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_pauses_grow_to_a_limit_with_jitter_downwards(tries: int, random: float) -> None:
    whole = backoff(tries, lambda: 0.0)
    assert whole <= LONGEST_PAUSE
    assert whole / 2 <= backoff(tries, lambda: random) <= whole
    assert whole <= backoff(tries + 1, lambda: 0.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("5", 5.0), ("0", 0.0), (" 7 ", 7.0), ("Fri, 27 Nov 2026 12:00:30 GMT", 30.0)),
        *(("Fri, 27 Nov 2026 11:00:00 GMT", 0.0), ("soon", None), ("-3", None), ("", None)),
        *(("1.5", None), ("Fri, 99 Nov 2026 12:00:00 GMT", None)),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}, NOW) == seconds


def test_a_form_is_as_long_as_it_says_and_starts_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / 'a "file".jsonl'
    path.write_bytes(b"rows\n" * 100_000)
    sources = [path, str(path), path.read_bytes(), BytesIO(path.read_bytes())]
    for file in sources:
        form = Form([("name", "naïve")], "file", source_of(file), boundary="b")
        first, second = b"".join(form.chunks()), b"".join(form.chunks())
        assert first == second
        assert len(first) == int(form.headers["Content-Length"])
        assert first.endswith(b"rows\n\r\n--b--\r\n")
        assert "naïve".encode() in first
    assert b'filename="a %22file%22.jsonl"' in b"".join(Form([], "file", source_of(path)).chunks())


def test_a_file_is_sent_from_where_it_stands_and_stays_open() -> None:
    file = BytesIO(b"skipped,sent")
    file.seek(8)
    form = Form([], "file", source_of(file))
    assert b"\r\n\r\nsent\r\n" in b"".join(form.chunks())
    assert b"\r\n\r\nsent\r\n" in b"".join(form.chunks())
    assert not file.closed


class Pipe(BytesIO):
    def seekable(self) -> bool:
        return False


def test_what_cant_be_read_twice_is_refused() -> None:
    with pytest.raises(TuneyardError, match="rewound"):
        source_of(Pipe(b"rows"))


def test_a_file_that_shrinks_meanwhile_is_told() -> None:
    file = BytesIO(b"rows")
    form = Form([], "file", source_of(file))
    file.truncate(2)
    with pytest.raises(TuneyardError, match="shorter"):
        list(form.chunks())


def test_a_client_needs_a_key_and_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TUNEYARD_API_KEY", "TUNEYARD_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TuneyardError, match="TUNEYARD_API_KEY"):
        Tuneyard(base_url="http://there")
    with pytest.raises(TuneyardError, match="TUNEYARD_BASE_URL"):
        Tuneyard(api_key="k")
    monkeypatch.setenv("TUNEYARD_API_KEY", "k\n")
    monkeypatch.setenv("TUNEYARD_BASE_URL", "http://there/")
    assert Tuneyard().base_url == "http://there"


@pytest.mark.parametrize("url", ["there", "ftp://there", "http://", "http://[", "http://a?b", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(TuneyardError):
        Tuneyard(api_key="k", base_url=url or " ")


def test_a_client_never_shows_its_key() -> None:
    client = Tuneyard(api_key="tuneyard_secret", base_url="http://there")
    assert "secret" not in repr(client) + repr(client.jobs._options)
    with pytest.raises(TuneyardError) as told:
        Tuneyard(api_key="tuneyard_sécret", base_url="http://there")
    assert "cret" not in str(told.value)
