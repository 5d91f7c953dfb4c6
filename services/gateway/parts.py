"""What a request handler works with. Made once by the composition root, found at ``app.state``."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from faststream.nats import NatsBroker
from litestar import Request
from msgspec import Struct

from libs.eventlog.groupcommit import GroupCommit
from libs.objectstore import ObjectStore
from services.gateway.access.accounts import Caller
from services.gateway.access.auth import Authenticator
from services.gateway.access.limits import Limits
from services.gateway.access.peppers import Peppers
from services.gateway.access.rate_limit import RateLimiter
from services.gateway.catalog import Catalog
from services.gateway.http.errors import not_found
from services.gateway.streams.hub import Streams

Asked = Request[Any, Any, Any]


class Parts(Struct, frozen=True, kw_only=True):
    """``now`` is UTC; ``new_id`` gives random UUIDs. A request id names one request in the logs;
    nothing depends on nobody guessing it. ``peppers`` are what API keys are hashed with."""

    pool: Any
    log: GroupCommit
    broker: NatsBroker
    store: ObjectStore
    catalog: Catalog
    authenticator: Authenticator
    limiter: RateLimiter
    limits: Limits
    streams: Streams
    peppers: Peppers
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    new_request_id: Callable[[], str]


def parts_of(request: Asked) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def caller_of(request: Asked) -> Caller:
    """Whoever the edge let in; the only routes without a caller are the open ones."""
    scope: Any = request.scope
    caller: Caller = scope["caller"]
    return caller


def id_in_path(text: str, what: str) -> UUID:
    """An id from the path. Raises ApiError 404: what is no UUID names nothing of ours."""
    try:
        return UUID(text)
    except ValueError:
        raise not_found(what) from None
