"""What was sent to a webhook, and sending it again."""

from datetime import UTC, datetime
from typing import Annotated, assert_never

import msgspec
from litestar.params import FromPath
from msgspec import Meta, Struct

from libs.bus.rpc import ask
from libs.contracts.webhooks_rpc import (
    DELIVERIES,
    PING,
    RECOVER,
    REDELIVER,
    Delivery,
    DeliveryFound,
    DeliveryList,
    DeliveryStatus,
    EndpointKeyTaken,
    ListDeliveries,
    Recover,
    Recovering,
    Redeliver,
    SendPing,
    UnknownDelivery,
    UnknownEndpoint,
)
from services.gateway.http.errors import not_found
from services.gateway.http.operation import operation
from services.gateway.http.pages import Page, PageQuery, Place, cursor_of, place_of
from services.gateway.http.replies import Reply, reply
from services.gateway.parts import Asked, caller_of, id_in_path, parts_of
from services.gateway.reading import read_json, read_query
from services.gateway.submission import conflict
from services.gateway.webhook_requests import WEBHOOK, once


class DeliveriesQuery(PageQuery, frozen=True, kw_only=True):
    """Which deliveries: all, or those of one ``status``."""

    status: (
        Annotated[DeliveryStatus, Meta(description="Only deliveries of this status.")] | None
    ) = None


class RecoverRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From when on."""

    since: Annotated[
        datetime, Meta(tz=True, description="With an offset, such as 2026-03-19T12:00:00Z.")
    ]


class Recovery(Struct, frozen=True, kw_only=True):
    """``deliveries`` are on their way now. ``has_more``: others are left; send the request again,
    under another idempotency key."""

    deliveries: int
    has_more: bool


FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)

decode_since = msgspec.json.Decoder(RecoverRequest)


@operation(
    "POST",
    "/v1/webhooks/{webhook_id}/test",
    id="testWebhook",
    tag="Webhooks",
    scope="write",
    answer=Delivery,
    status=202,
    refuses=("idempotency_conflict",),
    idempotency_key=True,
)
async def test_webhook(request: Asked, webhook_id: FromPath[str]) -> Reply:
    """Send a ping to a webhook.

    It is sent within a moment, also to one that is disabled; listWebhookDeliveries shows what came
    of it.
    """
    endpoint_id = id_in_path(webhook_id, WEBHOOK)
    asked = once(request, "testWebhook", endpoint_id)
    answer = await ask(
        parts_of(request).broker,
        PING,
        SendPing(
            account_id=caller_of(request).account_id,
            endpoint_id=endpoint_id,
            idempotency_key=asked.key,
            request_sha256=asked.request_sha256,
        ),
    )
    match answer:
        case DeliveryFound(delivery=delivery, replayed=again):
            return reply(delivery, status=202, headers=asked.replayed(again))
        case UnknownEndpoint():
            raise not_found(WEBHOOK)
        case EndpointKeyTaken():
            raise conflict()
        case _:
            assert_never(answer)


@operation(
    "GET",
    "/v1/webhooks/{webhook_id}/deliveries",
    id="listWebhookDeliveries",
    tag="Webhooks",
    scope="read",
    answer=Page[Delivery],
    query=DeliveriesQuery,
)
async def list_webhook_deliveries(request: Asked, webhook_id: FromPath[str]) -> Reply:
    """List what was sent to a webhook, newest first.

    Each delivery has its last ten attempts, with the first KB of each answer. A page may be shorter
    than its limit where the answers are long; has_more tells whether it is the last.
    """
    endpoint_id = id_in_path(webhook_id, WEBHOOK)
    query = read_query(request, DeliveriesQuery)
    after = place_of(query.cursor)
    answer = await ask(
        parts_of(request).broker,
        DELIVERIES,
        ListDeliveries(
            account_id=caller_of(request).account_id,
            endpoint_id=endpoint_id,
            status=query.status,
            before=after.created_at,
            before_id=after.id,
            limit=query.limit,
        ),
    )
    match answer:
        case DeliveryList(deliveries=found, more=more):
            last = cursor_of(Place(found[-1].created_at, found[-1].id)) if more else None
            return reply(Page(found, last, more))
        case UnknownEndpoint():
            raise not_found(WEBHOOK)
        case _:
            assert_never(answer)


@operation(
    "POST",
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    id="redeliverWebhook",
    tag="Webhooks",
    scope="write",
    answer=Delivery,
    status=202,
    refuses=("idempotency_conflict",),
    idempotency_key=True,
)
async def redeliver_webhook(
    request: Asked, webhook_id: FromPath[str], delivery_id: FromPath[str]
) -> Reply:
    """Send one delivery again, whatever became of it, with the whole schedule before it.

    Its webhook-id stays the same, so a receiver that has it already can tell. While the webhook is
    disabled it waits.
    """
    wanted_of, wanted = id_in_path(webhook_id, "delivery"), id_in_path(delivery_id, "delivery")
    asked = once(request, "redeliverWebhook", wanted_of, wanted)
    answer = await ask(
        parts_of(request).broker,
        REDELIVER,
        Redeliver(
            account_id=caller_of(request).account_id,
            endpoint_id=wanted_of,
            delivery_id=wanted,
            idempotency_key=asked.key,
            request_sha256=asked.request_sha256,
        ),
    )
    match answer:
        case DeliveryFound(delivery=delivery, replayed=again):
            return reply(delivery, status=202, headers=asked.replayed(again))
        case UnknownDelivery():
            raise not_found("delivery")
        case EndpointKeyTaken():
            raise conflict()
        case _:
            assert_never(answer)


@operation(
    "POST",
    "/v1/webhooks/{webhook_id}/recover",
    id="recoverWebhook",
    tag="Webhooks",
    scope="write",
    answer=Recovery,
    status=202,
    body=RecoverRequest,
    refuses=("idempotency_conflict",),
    idempotency_key=True,
)
async def recover_webhook(request: Asked, webhook_id: FromPath[str]) -> Reply:
    """Send whatever has happened since then and the webhook has not got.

    That is what was given up, and what it was never sent: because it was disabled, did not exist
    yet, or was not told of these event types then. While the webhook is disabled it waits.
    """
    endpoint_id = id_in_path(webhook_id, WEBHOOK)
    wanted = await read_json(request, decode_since)
    asked = once(request, "recoverWebhook", endpoint_id, wanted)
    answer = await ask(
        parts_of(request).broker,
        RECOVER,
        Recover(
            account_id=caller_of(request).account_id,
            endpoint_id=endpoint_id,
            since=in_utc(wanted.since),
            idempotency_key=asked.key,
            request_sha256=asked.request_sha256,
        ),
    )
    match answer:
        case Recovering(deliveries=deliveries, more=more, replayed=again):
            told = Recovery(deliveries=deliveries, has_more=more)
            return reply(told, status=202, headers=asked.replayed(again))
        case UnknownEndpoint():
            raise not_found(WEBHOOK)
        case EndpointKeyTaken():
            raise conflict()
        case _:
            assert_never(answer)


def in_utc(moment: datetime) -> datetime:
    """One that UTC's years can't tell is the first or the last that they can."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return FIRST if moment.year == FIRST.year else LAST


ROUTES = (
    test_webhook,
    list_webhook_deliveries,
    redeliver_webhook,
    recover_webhook,
)
