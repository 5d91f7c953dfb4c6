"""What requests about webhooks say, and what makes them safe to repeat."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from libs.contracts.webhooks_rpc import EventType
from services.gateway.model import digest
from services.gateway.parts import Asked, parts_of
from services.gateway.reading import header_key

WEBHOOK = "webhook"

Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2048,
        pattern=r"^https?://[\x21-\x7e]+$",
        description="Where events are sent to: https, and on the public internet.",
    ),
]
EventTypes = Annotated[
    list[EventType],
    Meta(min_length=1, max_length=16, description="Of what it is told; null: of everything."),
]
Description = Annotated[
    str,
    Meta(max_length=500, pattern=r"^[^\x00]*$", description="For people: what it is for."),
]


class NewWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``event_types`` left out or null: all, also those that come later."""

    url: Url
    event_types: EventTypes | None = None
    description: Description | None = None
    enabled: bool = True


class WebhookPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is."""

    url: Url | UnsetType = UNSET
    event_types: EventTypes | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


decode_new = msgspec.json.Decoder(NewWebhook)
decode_patch: msgspec.json.Decoder[WebhookPatch] = msgspec.json.Decoder(WebhookPatch)


class Once(Struct, frozen=True):
    """What makes a question safe to repeat, by us and by the client."""

    key: str
    request_sha256: str
    by_client: bool

    def replayed(self, again: bool) -> dict[str, str] | None:
        """The header of an answer that the client has asked for before, as far as it knows."""
        return {"Idempotency-Replayed": "true"} if again and self.by_client else None


def once(request: Asked, *what: object) -> Once:
    """Without a key of the client's, one of ours: webhooks may be asked again for a lost answer.

    ``what`` tells this request from others. Raises ApiError 422.
    """
    key = header_key(request, "jobs")
    text = key.text if key else f"once:{parts_of(request).new_id()}"
    return Once(text, digest(what), key is not None)


def without_repetition(types: list[EventType] | None) -> list[EventType] | None:
    return None if types is None else list(dict.fromkeys(types))
