"""The outermost layer: a trace, a request id, a caller and their rate, before anything is read.

It stands in front of the router, so a path that does not exist and one that does look the same
without a key. Every path needs one except those named in ``OPEN_PATHS``, exactly, and those below
``OPEN_FOLDER``.
"""

from collections.abc import Callable
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.trace import SpanKind

from libs.observability.durations import timed
from libs.observability.metrics import REQUESTS
from libs.observability.spans import span
from libs.observability.trace import continued, current_traceparent
from services.gateway.access.auth import Authenticator
from services.gateway.access.rate_limit import RateLimiter, Taken, header_of
from services.gateway.http.errors import ApiError, as_api_error, error_reply

OPEN_PATHS = frozenset(
    {
        *{"/v1/healthz", "/v1/readyz", "/openapi.json", "/docs"},
        *{"/v1/webhooks/stripe", "/billing/returned"},  # signed by Stripe; says nothing of anybody
    }
)
OPEN_FOLDER = "/docs/"  # what the page of the document is made of

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "_OTHER"
"""By convention for a method that nobody knows: a client could invent a new one each time."""
CLIENT_ERROR = 400
SERVER_ERROR = 500  # the statuses from here on are failures of ours


class Edge:
    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        limiter: RateLimiter,
        new_request_id: Callable[[], str],
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._limiter = limiter
        self._new_request_id = new_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = self._new_request_id()
        authorization = traceparent = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"traceparent":
                traceparent = value.decode("latin-1")
        method = str(scope["method"]) if scope["method"] in METHODS else OTHER
        with (
            continued(traceparent, request_id=request_id),
            span(method, SpanKind.SERVER, enters=True) as serving,
            timed(REQUESTS, {HTTP_REQUEST_METHOD: method}) as timing,
        ):
            trace = current_traceparent() or ""
            extra = [(b"x-request-id", request_id.encode()), (b"traceparent", trace.encode())]

            async def send_traced(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *extra]
                    timing.attributes[HTTP_RESPONSE_STATUS_CODE] = message["status"]
                await send(message)

            mine: Any = scope
            mine["request_id"] = request_id
            path = scope["path"]
            try:
                if path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER):
                    caller = await self._authenticator.caller(authorization, path)
                    serving.set(account_id=str(caller.account_id))
                    taken = self._limiter.take(caller.account_id, caller.rate)
                    extra += (caller.rate.policy, header_of(taken))
                    if taken.retry_after:
                        raise too_many(taken)
                    mine["caller"] = caller
            except Exception as error:
                refusal = error_reply(as_api_error(error), request_id)
                await refusal(scope, receive, send_traced)
            else:
                await self._app(scope, receive, send_traced)
            finally:
                _conclude(mine, serving, timing)


def _conclude(scope: dict[str, Any], serving: span, timing: timed) -> None:
    """By the route's template and never by the path, which is the client's own text."""
    route = scope.get("path_template")
    if route is not None:
        timing.attributes[HTTP_ROUTE] = route
        serving.name = f"{serving.name} {route}"
    status = timing.attributes.get(HTTP_RESPONSE_STATUS_CODE, 0)
    assert isinstance(status, int)
    serving.describe(timing.attributes)
    if status >= SERVER_ERROR:
        serving.fail(str(status))
    elif status < CLIENT_ERROR:  # what was answered for is a job of the account's
        ids = scope.get("path_params", {})
        if (job_id := ids.get("job_id") or ids.get("run_id")) is not None:
            serving.set(job_id=str(job_id))


def too_many(taken: Taken) -> ApiError:
    return ApiError(
        "rate_limited",
        f"Too many requests for this account; send the next one in {taken.retry_after} s, and"
        " let RateLimit tell how many may follow.",
        headers={"Retry-After": str(taken.retry_after)},
    )
