"""Webhooks: make them, try them, and have what they missed sent again."""

from collections.abc import Sequence
from datetime import datetime
from typing import get_args

from tuneyard.cli import listen
from tuneyard.cli.context import Context
from tuneyard.cli.exits import OK, CliError
from tuneyard.cli.options import (
    Commands,
    Parser,
    add_idempotency_key,
    add_page,
    add_yes,
    command,
    group,
    moment_of,
    types_of,
)
from tuneyard.cli.text import moment, pairs, table
from tuneyard.resources.webhooks import DeliveryStatus, EventType
from tuneyard.types import Delivery, Endpoint, EndpointWithSecret, Page, Recovery

TYPES = get_args(EventType)


def add(commands: Commands) -> None:
    webhooks = group(commands, "webhooks", "be told of what happens to jobs")
    add_page(command(webhooks, "ls", list_webhooks, "list the webhooks"))
    one = command(webhooks, "add", add_webhook, "make a webhook; its secret is shown this once")
    one.add_argument("url", metavar="URL", help="where events are posted to")
    _add_types(one)
    one.add_argument("--description", help="for people: what it is for")
    add_idempotency_key(one)
    one = command(webhooks, "rm", delete, "delete a webhook")
    _add_webhook(one)
    add_yes(one)
    one = command(
        webhooks,
        "rotate-secret",
        rotate_secret,
        "make a new secret, shown this once; the former one signs too for a day",
    )
    _add_webhook(one)
    add_idempotency_key(one)
    one = command(webhooks, "deliveries", deliveries, "list what was sent to a webhook")
    _add_webhook(one)
    one.add_argument("--status", choices=get_args(DeliveryStatus))
    add_page(one)
    one = command(webhooks, "trigger", trigger, "send a ping to a webhook, to try it")
    _add_webhook(one)
    one = command(webhooks, "replay", replay, "send again what a webhook did not take")
    _add_webhook(one)
    one.add_argument("delivery_id", nargs="?", metavar="DELIVERY", help="only this one")
    one.add_argument(
        "--since",
        type=moment_of,
        metavar="TIME",
        help="all that it missed since then, as 2027-01-31T00:00:00Z",
    )
    one = command(
        webhooks, "listen", listen.listen, "bring the account's events to a server on this machine"
    )
    one.add_argument("--forward-to", required=True, metavar="URL", help="where they are posted to")
    _add_types(one)
    one.add_argument("--secret", metavar="WHSEC", help="what signs them; left out: a new one")
    one.add_argument("--after", metavar="ID", help="go on behind what it said when it ended")


def _add_webhook(parser: Parser) -> None:
    parser.add_argument("webhook_id", metavar="WEBHOOK", help="its id")


def _add_types(parser: Parser) -> None:
    parser.add_argument(
        "--types", type=types_of(TYPES), metavar="A,B", help=f"only these of {', '.join(TYPES)}"
    )


def list_webhooks(context: Context, *, limit: int | None, cursor: str | None) -> int:
    with context.client() as client:
        context.page(client.webhooks.with_raw_response.list(limit=limit, cursor=cursor), _webhooks)
    return OK


def _webhooks(page: Page[Endpoint]) -> object:
    return table(
        ("id", "url", "of", "state", "created"),
        [
            (
                each.id,
                each.url,
                ",".join(each.event_types) if each.event_types else "everything",
                "on" if each.enabled else f"off: {each.disabled_reason or 'by you'}",
                moment(each.created_at),
            )
            for each in page.data
        ],
    )


def add_webhook(
    context: Context,
    *,
    url: str,
    types: Sequence[EventType] | None,
    description: str | None,
    idempotency_key: str | None,
) -> int:
    with context.client() as client:
        raw = client.webhooks.with_raw_response.create(
            url=url, event_types=types, description=description, idempotency_key=idempotency_key
        )
    context.reply(raw, _made)
    context.note("The secret is shown this once.")
    return OK


def _made(webhook: EndpointWithSecret) -> object:
    return pairs([("id", webhook.id), ("url", webhook.url), ("secret", webhook.secret)])


def delete(context: Context, *, webhook_id: str, yes: bool) -> int:
    context.confirm(f"Delete the webhook {webhook_id}, and what is on its way to it?", yes=yes)
    with context.client() as client:
        raw = client.webhooks.with_raw_response.delete(webhook_id=webhook_id)
    context.reply(raw, lambda gone: f"deleted {gone.id}")
    return OK


def rotate_secret(context: Context, *, webhook_id: str, idempotency_key: str | None) -> int:
    with context.client() as client:
        raw = client.webhooks.with_raw_response.rotate_secret(
            webhook_id=webhook_id, idempotency_key=idempotency_key
        )
    context.reply(raw, _made)
    context.note("The secret is shown this once; for 24 hours the one before it signs as well.")
    return OK


def deliveries(
    context: Context,
    *,
    webhook_id: str,
    status: DeliveryStatus | None,
    limit: int | None,
    cursor: str | None,
) -> int:
    with context.client() as client:
        raw = client.webhooks.with_raw_response.deliveries(
            webhook_id=webhook_id, status=status, limit=limit, cursor=cursor
        )
    context.page(raw, _deliveries)
    return OK


def _deliveries(page: Page[Delivery]) -> object:
    return table(
        ("id", "created", "event", "status", "tries", "last answer", "next"),
        [
            (
                each.id,
                moment(each.created_at),
                each.event_type,
                each.status,
                each.attempt_count,
                _answer(each),
                moment(each.next_attempt_at),
            )
            for each in page.data
        ],
        right="tries",
    )


def _answer(delivery: Delivery) -> str | None:
    if not delivery.attempts:
        return None
    last = delivery.attempts[0]
    return last.error if last.status_code is None else str(last.status_code)


def trigger(context: Context, *, webhook_id: str) -> int:
    with context.client() as client:
        raw = client.webhooks.with_raw_response.test(webhook_id=webhook_id)
    context.reply(raw, _sent)
    return OK


def _sent(delivery: Delivery) -> str:
    return (
        f"{delivery.event_type} {delivery.event_id} is on its way\n"
        f"what comes of it: tuneyard webhooks deliveries {delivery.webhook_id}"
    )


def replay(
    context: Context, *, webhook_id: str, delivery_id: str | None, since: datetime | None
) -> int:
    if (delivery_id is None) == (since is None):
        raise CliError(
            "Either one delivery is sent again, or all that was missed since some time.",
            hint="name a DELIVERY, which `tuneyard webhooks deliveries` lists, or add --since TIME",
            code="usage",
        )
    with context.client() as client:
        asking = client.webhooks.with_raw_response
        if delivery_id is not None:
            context.reply(asking.redeliver(webhook_id=webhook_id, delivery_id=delivery_id), _sent)
        elif since is not None:
            context.reply(asking.recover(webhook_id=webhook_id, since=since), _recovered)
    return OK


def _recovered(of: Recovery) -> str:
    more = "; there is more: run it again" if of.has_more else ""
    return f"{of.deliveries} deliveries are on their way{more}"
