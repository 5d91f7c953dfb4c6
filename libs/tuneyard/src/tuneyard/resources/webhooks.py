"""Webhooks: addresses that are told of what happens to jobs."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from msgspec import UNSET, UnsetType

from tuneyard import webhooks
from tuneyard._call import NULL, Call
from tuneyard._method import M, R, Raw, Resource, endpoint, listing
from tuneyard.types import (
    Deleted,
    Delivery,
    Endpoint,
    EndpointWithSecret,
    Page,
    Recovery,
    WebhookEvent,
)

EventType = Literal["job.queued", "job.running", "job.completed", "job.failed", "job.cancelled"]
DeliveryStatus = Literal["pending", "delivered", "failed"]


class Webhooks(Resource[M, R]):
    @property
    def with_raw_response(self) -> "Webhooks[M, Raw]":
        return Webhooks(self._options, self._driver, raw=True)

    @endpoint("POST", "/v1/webhooks", key="header")
    def create(
        self,
        *,
        url: str,
        event_types: Sequence[EventType] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Call[EndpointWithSecret]:
        """Its ``secret``, which `unwrap` takes, is shown this once. ``event_types`` left out: all,
        also those that come later."""
        return Call(
            body={
                "url": url,
                "event_types": event_types,
                "description": description,
                "enabled": enabled,
            },
            key=idempotency_key,
        )

    @listing("GET", "/v1/webhooks")
    def list(self, *, limit: int | None = None, cursor: str | None = None) -> Call[Page[Endpoint]]:
        """Newest first. ``limit``: in one page."""
        return Call(query={"limit": limit, "cursor": cursor})

    @endpoint("GET", "/v1/webhooks/{webhook_id}")
    def get(self, *, webhook_id: str) -> Call[Endpoint]:
        """A webhook, without its secret."""
        return Call(path={"webhook_id": webhook_id})

    @endpoint("PATCH", "/v1/webhooks/{webhook_id}")
    def update(
        self,
        *,
        webhook_id: str,
        url: str | UnsetType = UNSET,
        event_types: Sequence[EventType] | UnsetType | None = UNSET,
        description: str | UnsetType | None = UNSET,
        enabled: bool | UnsetType = UNSET,
    ) -> Call[Endpoint]:
        """What is left out stays as it is. ``event_types`` None: all."""
        return Call(
            path={"webhook_id": webhook_id},
            body={
                "url": url,
                "event_types": NULL if event_types is None else event_types,
                "description": NULL if description is None else description,
                "enabled": enabled,
            },
        )

    @endpoint("DELETE", "/v1/webhooks/{webhook_id}")
    def delete(self, *, webhook_id: str) -> Call[Deleted]:
        """Its deliveries are deleted with it."""
        return Call(path={"webhook_id": webhook_id})

    @endpoint("POST", "/v1/webhooks/{webhook_id}/rotate-secret", key="header")
    def rotate_secret(
        self, *, webhook_id: str, idempotency_key: str | None = None
    ) -> Call[EndpointWithSecret]:
        """A new secret, shown this once; for 24 hours the one before it signs as well."""
        return Call(path={"webhook_id": webhook_id}, key=idempotency_key)

    @endpoint("POST", "/v1/webhooks/{webhook_id}/test", key="header")
    def test(self, *, webhook_id: str, idempotency_key: str | None = None) -> Call[Delivery]:
        """Send a ``ping``; `deliveries` shows what came of it."""
        return Call(path={"webhook_id": webhook_id}, key=idempotency_key)

    @listing("GET", "/v1/webhooks/{webhook_id}/deliveries")
    def deliveries(
        self,
        *,
        webhook_id: str,
        status: DeliveryStatus | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Call[Page[Delivery]]:
        """What was sent to it, newest first, with the last attempts. ``limit``: in one page."""
        return Call(
            path={"webhook_id": webhook_id},
            query={"status": status, "limit": limit, "cursor": cursor},
        )

    @endpoint("POST", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", key="header")
    def redeliver(
        self, *, webhook_id: str, delivery_id: str, idempotency_key: str | None = None
    ) -> Call[Delivery]:
        """Send one delivery again, whatever became of it; its ``webhook-id`` stays the same."""
        return Call(
            path={"webhook_id": webhook_id, "delivery_id": delivery_id}, key=idempotency_key
        )

    @endpoint("POST", "/v1/webhooks/{webhook_id}/recover", key="header")
    def recover(
        self, *, webhook_id: str, since: datetime, idempotency_key: str | None = None
    ) -> Call[Recovery]:
        """Send whatever it missed since then, a time with a zone; where ``has_more``, call it
        again."""
        return Call(path={"webhook_id": webhook_id}, body={"since": since}, key=idempotency_key)

    def unwrap(
        self,
        body: bytes | str,
        headers: Mapping[str, str],
        secret: str,
        *,
        tolerance: timedelta = webhooks.TOLERANCE,
    ) -> WebhookEvent:
        """The event that a request to your address brings, if this secret signed it lately. As
        ``tuneyard.webhooks.unwrap``, which needs no client. Raises WebhookVerificationError."""
        now = self._options.seams.now()
        return webhooks.unwrap(body, headers, secret, tolerance=tolerance, now=now)
