"""From a method's arguments to an HTTP request, and from its answer to the method's result."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import UNSET

from tuneyard._effects import Flow, Request, Response, Send, Sleep
from tuneyard._form import Form
from tuneyard._retry import NOT_FOUND, has_unknown_outcome, pause_after, retry_after
from tuneyard._seams import Seams
from tuneyard._version import VERSION
from tuneyard.errors import APIConnectionError, APIError, ResponseError, TuneyardError, error_of

T = TypeVar("T")

KeyPlace = Literal["header", "body"]
NULL = msgspec.Raw(b"null")
"""Of a field where null says something else than silence."""

USER_AGENT = f"tuneyard-python/{VERSION} Python/{platform.python_version()}"


@dataclass(frozen=True)
class Route:
    """``key``: where an idempotency key goes. ``repeatable``: doing it twice is the same as doing
    it once, though it is a POST without a key."""

    method: str
    path: str
    key: KeyPlace | None = None
    repeatable: bool = False

    @property
    def may_repeat(self) -> bool:
        return self.method != "POST" or self.key is not None or self.repeatable


@dataclass(frozen=True)
class Call(Generic[T]):
    """What one call of a method sends. None in ``query`` and ``body`` is not sent, nor is UNSET;
    NULL is. ``read`` makes the result of an answer whose body isn't the result."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    form: Form | None = None
    key: str | None = None
    last_event_id: str | None = None
    read: Callable[[Response], T] | None = None


@dataclass(frozen=True)
class Options:
    """A client's settings. ``timeout`` in seconds, for each wait on the network; None: for ever."""

    base_url: str
    api_key: str = field(repr=False)
    timeout: float | None
    max_retries: int
    seams: Seams = field(repr=False)

    def headers(self) -> dict[str, str]:
        return {
            "Accept": "application/json",
            "Authorization": f"Bearer {self.api_key}",
            "User-Agent": USER_AGENT,
        }


def checked_url(text: str) -> str:
    """Raises TuneyardError for what is no address of a server."""
    url = text.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        hostname, _ = parts.hostname, parts.port
    except ValueError:
        hostname = None
    if not hostname or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise TuneyardError(f"base_url: {text!r} is no http or https address")
    return url


def checked_header(name: str, value: str) -> str:
    """Raises TuneyardError for what no header can hold; never says it, as it may be a secret."""
    text = value.strip()
    if not text or not text.isascii() or not text.isprintable():
        raise TuneyardError(f"{name}: it needs at least one character, and only printable ASCII")
    return text


def request_of(options: Options, route: Route, call: Call[Any]) -> Request:
    """The same request each time it is sent: its idempotency key is made here."""
    headers = options.headers()
    body: bytes | Form | None = None
    if call.body is not None:
        sent = {name: of for name, of in call.body.items() if of is not None and of is not UNSET}
        if route.key == "body":
            sent["idempotency_key"] = call.key or options.seams.new_key()
        body = msgspec.json.encode(sent)
        headers["Content-Type"] = "application/json"
    elif call.form is not None:
        body = call.form
        headers |= call.form.headers
    if route.key == "header":
        key = options.seams.new_key() if call.key is None else call.key
        headers["Idempotency-Key"] = checked_header("idempotency_key", key)
    return Request(
        method=route.method,
        url=options.base_url + _path(route.path, call.path) + _query(call.query),
        headers=headers,
        body=body,
        timeout=options.timeout,
    )


def _path(template: str, values: Mapping[str, str]) -> str:
    path = template
    for name, value in values.items():
        if str(value) in ("", ".", ".."):
            raise TuneyardError(f"{name}: {str(value)!r} is no id")
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    return path


def _query(values: Mapping[str, Any]) -> str:
    given = {name: _text(value) for name, value in values.items() if value is not None}
    return "?" + urlencode(given) if given else ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def exchange(options: Options, route: Route, call: Call[Any]) -> Flow[Response]:
    """Send one request, and again while that is worth it. Raises APIError, APIConnectionError."""
    request = request_of(options, route, call)
    gone = _gone(call) if route.method == "DELETE" else None
    return (yield from attempts(options, request, repeatable=route.may_repeat, gone=gone))


def _gone(call: Call[Any]) -> bytes:
    """What the platform answers a DELETE with: the id that its path ends with."""
    return msgspec.json.encode({"id": str(list(call.path.values())[-1]), "deleted": True})


def attempts(
    options: Options, request: Request, *, repeatable: bool, gone: bytes | None
) -> Flow[Response]:
    """``gone``: what to answer when there is no such thing any more after a try that may have had
    its effect; None: that is an error."""
    seams, tries, may_be_done = options.seams, 0, False
    while True:
        tries += 1
        failed: APIConnectionError | APIError
        try:
            response: Response = yield Send(request)
        except APIConnectionError as error:
            failed = error
        else:
            if 200 <= response.status < 300:
                return response
            failed = refusal(options, response.status, response.headers, response.content)
            if gone is not None and may_be_done and failed.code == NOT_FOUND:
                return Response(200, response.headers, gone)
        may_be_done = may_be_done or has_unknown_outcome(failed)
        pause = pause_after(
            failed,
            tries,
            max_retries=options.max_retries,
            repeatable=repeatable,
            random=seams.random,
        )
        if pause is None:
            raise failed
        yield Sleep(pause)


def refusal(options: Options, status: int, headers: dict[str, str], content: bytes) -> APIError:
    return error_of(status, headers, content, retry_after(headers, options.seams.now()))


def decoded(decoder: msgspec.json.Decoder[T], response: Response) -> T:
    """Raises ResponseError."""
    try:
        return decoder.decode(response.content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        request = response.headers.get("x-request-id")
        raise ResponseError(
            f"The answer is not what the platform sends ({error}; request {request}); is the"
            " base_url right?"
        ) from error
