"""The ASGI application: the routes, behind the edge."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec
from litestar import Litestar
from litestar.datastructures import State
from litestar.response import Response

from services.gateway.edge import Edge
from services.gateway.http.errors import as_api_error, error_reply
from services.gateway.http.event_stream import EventStream
from services.gateway.http.openapi import document
from services.gateway.http.operation import operations_of
from services.gateway.http.options import options_routes
from services.gateway.http.replies import Reply
from services.gateway.parts import Asked, Parts
from services.gateway.reading import JSON_LIMIT
from services.gateway.routes import (
    api_keys,
    billing,
    datasets,
    health,
    jobs,
    ledger,
    me,
    models,
    outcomes,
    payments,
    preview,
    recommend,
    reference,
    run_submission,
    runs,
    stream,
    telemetry,
    webhook_deliveries,
    webhooks,
)

ROUTES: Sequence[Any] = (
    *run_submission.ROUTES,
    *runs.ROUTES,
    *jobs.ROUTES,
    *outcomes.ROUTES,
    *billing.ROUTES,
    *payments.ROUTES,
    *ledger.ROUTES,
    *telemetry.ROUTES,
    *stream.ROUTES,
    *datasets.ROUTES,
    *preview.ROUTES,
    *models.ROUTES,
    *recommend.ROUTES,
    *health.ROUTES,
    *reference.ROUTES,
    *webhooks.ROUTES,
    *webhook_deliveries.ROUTES,
    *me.ROUTES,
    *api_keys.ROUTES,
)


def answer_error(request: Asked, error: Exception) -> Response[None]:
    """Every exception of every route ends here."""
    scope: Any = request.scope
    return Ready(error_reply(as_api_error(error), scope["request_id"]))


class Ready(Response[None]):
    """What Litestar wants of an exception handler, around an answer that is ready to be sent."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(None)
        self._answer = answer

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        return self._answer


def openapi_json() -> bytes:
    """The contract of all routes, with the examples that were recorded from a running platform."""
    examples = msgspec.json.decode(files("services.gateway").joinpath("examples.json").read_bytes())
    return msgspec.json.encode(document(operations_of(ROUTES), examples))


def create_app(parts: Parts) -> Edge:
    app = Litestar(
        route_handlers=[*options_routes(ROUTES), *ROUTES],
        state=State({"parts": parts, "openapi": openapi_json()}),
        exception_handlers={Exception: answer_error},
        request_max_body_size=JSON_LIMIT,
        openapi_config=None,
        logging_config=None,
        signature_types=[Reply, EventStream],
    )
    return Edge(app, parts.authenticator, parts.limiter, parts.new_request_id)
