"""One declaration a route: what it takes, gives and refuses, and the scope that it needs.

Routing, the check of the scope and the OpenAPI document all follow from it, so they agree.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from email.utils import format_datetime
from functools import wraps
from inspect import cleandoc
from typing import Any, Literal, TypeVar

from litestar import route
from litestar.handlers import HTTPRouteHandler
from litestar.types import Empty
from msgspec import Struct

from services.gateway.http.errors import ApiError
from services.gateway.http.problems import Code
from services.gateway.http.replies import Reply

Scope = Literal["read", "write", "billing", "admin"]
Method = Literal["GET", "POST", "PATCH", "DELETE"]
Tag = Literal[
    "Runs", "Jobs", "Models", "Datasets", "Training", "Billing", "Webhooks", "Account", "Platform"
]

OPERATION = "operation"  # where a route handler carries its declaration
OVERLAP = timedelta(days=183)  # half a year, promised in docs/compatibility.md

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])


class FormBody(Struct, frozen=True, kw_only=True):
    """A multipart form: the struct of its text fields, and the name of its file."""

    fields: type[Struct]
    file: str


class Operation(Struct, frozen=True, kw_only=True):
    """``path`` is as OpenAPI writes it. ``answer`` is the type of the body of the hoped-for
    ``status``. ``links`` names the path parameters that a value of the answer can be passed as:
    parameter to JSON pointer. ``headers`` are the answer's own, by their names in the document.
    ``events`` are those of a stream, by name: the types of their data.
    ``deprecated`` is since when the operation is so, and ``sunset`` when it ends."""

    id: str
    method: Method
    path: str
    tag: Tag
    summary: str
    description: str
    scope: Scope | None
    answer: Any
    status: int
    query: type[Struct] | None
    body: Any
    body_optional: bool
    form: FormBody | None
    refuses: tuple[Code, ...]
    idempotency_key: bool
    events: Mapping[str, Any] | None
    links: Mapping[str, str]
    headers: tuple[str, ...]
    deprecated: date | None
    sunset: date | None

    @property
    def parameters(self) -> list[str]:
        """The names in the path."""
        return re.findall(r"{(\w+)}", self.path)


def operation(
    method: Method,
    path: str,
    *,
    id: str,
    tag: Tag,
    scope: Scope | None,
    answer: Any,
    status: int = 200,
    query: type[Struct] | None = None,
    body: Any = None,
    body_optional: bool = False,
    form: FormBody | None = None,
    refuses: tuple[Code, ...] = (),
    idempotency_key: bool = False,
    events: Mapping[str, Any] | None = None,
    links: Mapping[str, str] | None = None,
    headers: tuple[str, ...] = (),
    deprecated: date | None = None,
    sunset: date | None = None,
) -> Callable[[Handler], HTTPRouteHandler]:
    """Make ``async def handler(request, **path parameters) -> Reply`` a route of the contract.

    ``refuses`` needs only what is this operation's own: what follows from the rest of the
    declaration (a key, a scope, a body, a path parameter) is added to the document by itself.
    The docstring's first line is the summary. A scope of None leaves the operation open to all.
    Raises ValueError for an operation that would end without notice.
    """
    if (deprecated is None) != (sunset is None):
        raise ValueError(f"{id}: give both, since when it is deprecated and when it ends")
    if deprecated and sunset and sunset - deprecated < OVERLAP:
        raise ValueError(f"{id}: let it work for {OVERLAP.days} days after its deprecation")

    def declare(handler: Handler) -> HTTPRouteHandler:
        summary, _, description = cleandoc(handler.__doc__ or "").partition("\n")
        declared = Operation(
            id=id,
            method=method,
            path=path,
            tag=tag,
            summary=summary.rstrip("."),
            description=description.strip(),
            scope=scope,
            answer=answer,
            status=status,
            query=query,
            body=body,
            body_optional=body_optional,
            form=form,
            refuses=refuses,
            idempotency_key=idempotency_key,
            events=events,
            links=links or {},
            headers=headers,
            deprecated=deprecated,
            sunset=sunset,
        )
        return route(
            re.sub(r"{(\w+)}", r"{\1:str}", path),
            http_method=method,
            status_code=status,
            opt={OPERATION: declared},
            # A form is read as a stream, under limits of its own.
            request_max_body_size=None if form else Empty,
        )(_guarded(handler, declared))

    return declare


def _guarded(handler: Handler, declared: Operation) -> Handler:
    """The handler behind the check of its scope. A guard of Litestar's would do the same, and copy
    the route for each request."""
    needed = declared.scope
    sunset = _sunset_headers(declared)

    @wraps(handler)
    async def guarded(request: Any, **path: str) -> Any:
        if needed is not None and needed not in request.scope["caller"].scopes:
            raise ApiError(
                "insufficient_scope",
                f"This needs a key with the scope '{needed}'; create one, or ask an admin.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope" scope="{needed}"'},
            )
        answer = await handler(request, **path)
        return answer.with_headers(sunset) if sunset and isinstance(answer, Reply) else answer

    return guarded  # type: ignore[return-value]


def _sunset_headers(declared: Operation) -> dict[str, str]:
    """RFC 9745: since when it is deprecated, in seconds. RFC 8594: when it ends, in words."""
    if declared.deprecated is None or declared.sunset is None:
        return {}
    since = datetime.combine(declared.deprecated, time(), UTC)
    end = datetime.combine(declared.sunset, time(), UTC)
    return {
        "Deprecation": f"@{int(since.timestamp())}",
        "Sunset": format_datetime(end, usegmt=True),
    }


def operations_of(routes: Any) -> list[Operation]:
    """The declarations of route handlers, in their order."""
    return [handler.opt[OPERATION] for handler in routes if OPERATION in handler.opt]
