"""Webhooks: the URLs of an account that are told of what happens to its jobs."""

from typing import assert_never

from litestar.params import FromPath
from msgspec import UNSET

from libs.bus.rpc import ask
from libs.contracts.webhooks_rpc import (
    CHANGE,
    CREATE,
    GET,
    LIST,
    REMOVE,
    ROTATE,
    ChangeEndpoint,
    CreateEndpoint,
    Endpoint,
    EndpointCreated,
    EndpointFound,
    EndpointKeyTaken,
    EndpointWithSecret,
    GetEndpoint,
    ListEndpoints,
    RemoveEndpoint,
    RotateSecret,
    SecretRotated,
    TooManyEndpoints,
    UnknownEndpoint,
    UrlRefused,
)
from services.gateway.http.errors import ApiError, invalid, not_found
from services.gateway.http.operation import operation
from services.gateway.http.pages import Page, PageQuery, Place, page, place_of
from services.gateway.http.replies import Deleted, Reply, reply
from services.gateway.parts import Asked, caller_of, id_in_path, parts_of
from services.gateway.reading import read_json, read_query
from services.gateway.submission import conflict
from services.gateway.webhook_requests import (
    WEBHOOK,
    NewWebhook,
    WebhookPatch,
    decode_new,
    decode_patch,
    once,
    without_repetition,
)


@operation(
    "POST",
    "/v1/webhooks",
    id="createWebhook",
    tag="Webhooks",
    scope="write",
    answer=EndpointWithSecret,
    status=201,
    body=NewWebhook,
    refuses=("webhook_limit", "idempotency_conflict"),
    idempotency_key=True,
    links={"webhook_id": "/id"},
)
async def create_webhook(request: Asked) -> Reply:
    """Create a webhook.

    Its secret checks the signatures of what is sent to it (Standard Webhooks 1.0.0), and is shown
    in this answer only. An account has at most 50.
    """
    wanted = await read_json(request, decode_new)
    asked = once(request, "createWebhook", wanted)
    answer = await ask(
        parts_of(request).broker,
        CREATE,
        CreateEndpoint(
            account_id=caller_of(request).account_id,
            url=wanted.url,
            event_types=without_repetition(wanted.event_types),
            description=wanted.description,
            enabled=wanted.enabled,
            idempotency_key=asked.key,
            request_sha256=asked.request_sha256,
        ),
    )
    match answer:
        case EndpointCreated(endpoint=endpoint, replayed=again):
            return reply(endpoint, status=201, headers=asked.replayed(again))
        case UrlRefused(reason=reason):
            raise invalid(f"url: {reason}")
        case TooManyEndpoints(limit=limit):
            raise ApiError(
                "webhook_limit",
                f"The account has {limit} webhooks, and may not have more; delete one that is not"
                " needed.",
                details={"max_webhooks": limit},
            )
        case EndpointKeyTaken():
            raise conflict()
        case _:
            assert_never(answer)


@operation(
    "GET",
    "/v1/webhooks",
    id="listWebhooks",
    tag="Webhooks",
    scope="read",
    answer=Page[Endpoint],
    query=PageQuery,
    links={"webhook_id": "/data/0/id"},
)
async def list_webhooks(request: Asked) -> Reply:
    """List webhooks, newest first."""
    query = read_query(request, PageQuery)
    after = place_of(query.cursor)
    found = await ask(
        parts_of(request).broker,
        LIST,
        ListEndpoints(
            account_id=caller_of(request).account_id,
            before=after.created_at,
            before_id=after.id,
            limit=query.limit,
        ),
    )
    return reply(page(found.endpoints, query.limit, lambda one: Place(one.created_at, one.id)))


@operation(
    "GET",
    "/v1/webhooks/{webhook_id}",
    id="getWebhook",
    tag="Webhooks",
    scope="read",
    answer=Endpoint,
)
async def get_webhook(request: Asked, webhook_id: FromPath[str]) -> Reply:
    """Get a webhook."""
    wanted = GetEndpoint(
        account_id=caller_of(request).account_id, endpoint_id=id_in_path(webhook_id, WEBHOOK)
    )
    answer = await ask(parts_of(request).broker, GET, wanted)
    match answer:
        case EndpointFound(endpoint=endpoint):
            return reply(endpoint)
        case UnknownEndpoint():
            raise not_found(WEBHOOK)
        case _:
            assert_never(answer)


@operation(
    "PATCH",
    "/v1/webhooks/{webhook_id}",
    id="updateWebhook",
    tag="Webhooks",
    scope="write",
    answer=Endpoint,
    body=WebhookPatch,
)
async def update_webhook(request: Asked, webhook_id: FromPath[str]) -> Reply:
    """Change a webhook.

    Enabling one that was switched off by itself clears why. What is on its way waits while it is
    disabled; what happens meanwhile is sent only when it is asked for by recoverWebhook.
    """
    endpoint_id = id_in_path(webhook_id, WEBHOOK)
    patch = await read_json(request, decode_patch)
    wanted = ChangeEndpoint(
        account_id=caller_of(request).account_id,
        endpoint_id=endpoint_id,
        url=patch.url,
        event_types=patch.event_types
        if patch.event_types is UNSET
        else without_repetition(patch.event_types),
        description=patch.description,
        enabled=patch.enabled,
    )
    answer = await ask(parts_of(request).broker, CHANGE, wanted)
    match answer:
        case EndpointFound(endpoint=endpoint):
            return reply(endpoint)
        case UrlRefused(reason=reason):
            raise invalid(f"url: {reason}")
        case UnknownEndpoint():
            raise not_found(WEBHOOK)
        case _:
            assert_never(answer)


@operation(
    "DELETE",
    "/v1/webhooks/{webhook_id}",
    id="deleteWebhook",
    tag="Webhooks",
    scope="write",
    answer=Deleted,
)
async def delete_webhook(request: Asked, webhook_id: FromPath[str]) -> Reply:
    """Delete a webhook.

    Its deliveries are deleted with it; one that is being sent just now may still arrive.
    """
    account_id, endpoint_id = caller_of(request).account_id, id_in_path(webhook_id, WEBHOOK)
    broker = parts_of(request).broker
    known = await ask(broker, GET, GetEndpoint(account_id=account_id, endpoint_id=endpoint_id))
    if isinstance(known, UnknownEndpoint):
        raise not_found(WEBHOOK)
    # It may be asked for twice, if the answer is late: then what was there just now is gone.
    await ask(broker, REMOVE, RemoveEndpoint(account_id=account_id, endpoint_id=endpoint_id))
    return reply(Deleted(endpoint_id))


@operation(
    "POST",
    "/v1/webhooks/{webhook_id}/rotate-secret",
    id="rotateWebhookSecret",
    tag="Webhooks",
    scope="write",
    answer=EndpointWithSecret,
    refuses=("idempotency_conflict",),
    idempotency_key=True,
)
async def rotate_webhook_secret(request: Asked, webhook_id: FromPath[str]) -> Reply:
    """Give a webhook a new secret.

    It is shown in this answer only. For 24 hours the one before it signs as well, so both
    signatures stand in the header; a second rotation ends that of the one before at once.
    """
    endpoint_id = id_in_path(webhook_id, WEBHOOK)
    asked = once(request, "rotateWebhookSecret", endpoint_id)
    answer = await ask(
        parts_of(request).broker,
        ROTATE,
        RotateSecret(
            account_id=caller_of(request).account_id,
            endpoint_id=endpoint_id,
            idempotency_key=asked.key,
            request_sha256=asked.request_sha256,
        ),
    )
    match answer:
        case SecretRotated(endpoint=endpoint, replayed=again):
            return reply(endpoint, headers=asked.replayed(again))
        case UnknownEndpoint():
            raise not_found(WEBHOOK)
        case EndpointKeyTaken():
            raise conflict()
        case _:
            assert_never(answer)


ROUTES = (
    create_webhook,
    list_webhooks,
    get_webhook,
    update_webhook,
    delete_webhook,
    rotate_webhook_secret,
)
