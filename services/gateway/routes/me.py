"""The account that a key or an ID token stands for."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from libs.bus.rpc import ask
from libs.contracts.billing_rpc import ACCOUNT, GetAccount, Subscription
from libs.contracts.webhooks_rpc import DISABLED, DisabledReason, Endpoint, ListDisabled
from services.gateway.access.accounts import (
    Account,
    Preferences,
    change_account,
    read_account,
)
from services.gateway.http.operation import operation
from services.gateway.http.replies import Reply, reply
from services.gateway.job_requests import Name
from services.gateway.parts import Asked, Parts, caller_of, parts_of
from services.gateway.reading import read_json


class AccountLimits(Struct, frozen=True, kw_only=True):
    """``burst`` requests may come at once."""

    requests_per_minute: int
    burst: int
    max_api_keys: int


class AccountNotice(Struct, frozen=True, kw_only=True):
    """Something that waits for the account's owner. ``webhook_disabled``: that webhook failed for
    so long that it was switched off; enabling or disabling it ends the notice."""

    code: Literal["webhook_disabled"]
    message: str
    created_at: datetime
    webhook_id: UUID


class Me(Struct, frozen=True, kw_only=True):
    """``paused``: a charge was declined, and ``paused_reason`` says which. ``portal_url`` is where
    cards and the subscription are managed; null where this installation takes no cards. ``notices``
    are what waits for its owner, the latest first."""

    id: UUID
    name: str
    email: str | None
    plan: str
    subscription: Subscription
    paused: bool
    paused_reason: str | None
    has_card: bool
    portal_url: str | None
    notification_preferences: Preferences
    limits: AccountLimits
    notices: list[AccountNotice]
    created_at: datetime


class PreferencesPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is."""

    job_completed: bool | UnsetType = UNSET
    job_failed: bool | UnsetType = UNSET
    billing: bool | UnsetType = UNSET
    product_news: bool | UnsetType = UNSET


class MePatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is."""

    name: Annotated[Name, Meta(description="What the account is called.")] | UnsetType = UNSET
    notification_preferences: PreferencesPatch | UnsetType = UNSET


decode_patch = msgspec.json.Decoder(MePatch)


@operation("GET", "/v1/me", id="getMe", tag="Account", scope="read", answer=Me)
async def get_me(request: Asked) -> Reply:
    """Get the account: its plan, how it stands with billing, and what it wants to be told."""
    parts = parts_of(request)
    return reply(await _seen(parts, await read_account(parts.pool, caller_of(request).account_id)))


@operation("PATCH", "/v1/me", id="updateMe", tag="Account", scope="write", answer=Me, body=MePatch)
async def update_me(request: Asked) -> Reply:
    """Change the account's name, or what it wants to be told."""
    parts, patch = parts_of(request), await read_json(request, decode_patch)
    changed = await change_account(
        parts.pool,
        caller_of(request).account_id,
        name=None if patch.name is UNSET else patch.name,
        preferences=msgspec.json.encode(
            {} if patch.notification_preferences is UNSET else patch.notification_preferences
        ),
    )
    return reply(await _seen(parts, changed))


async def _seen(parts: Parts, account: Account) -> Me:
    standing, disabled = await asyncio.gather(
        ask(parts.broker, ACCOUNT, GetAccount(account_id=account.id)),
        ask(parts.broker, DISABLED, ListDisabled(account_id=account.id)),
    )
    rate = parts.limits.rate(account.plan, account.requests_per_minute)
    return Me(
        id=account.id,
        name=account.name,
        email=account.email,
        plan=account.plan,
        subscription=standing.subscription,
        paused=standing.paused,
        paused_reason=standing.paused_reason,
        has_card=standing.has_card,
        portal_url=standing.portal_url,
        notification_preferences=account.notification_preferences,
        limits=AccountLimits(
            requests_per_minute=rate.requests_per_minute,
            burst=rate.burst,
            max_api_keys=parts.limits.of(account.plan).max_api_keys,
        ),
        notices=notices_of(disabled.endpoints),
        created_at=account.created_at,
    )


WHY_DISABLED: dict[DisabledReason, str] = {
    "gone": "it answered 410 Gone",
    "failing": "every delivery to it failed for five days",
}


def notices_of(disabled: Sequence[Endpoint]) -> list[AccountNotice]:
    """Of the webhooks that were switched off by themselves."""
    return [
        AccountNotice(
            code="webhook_disabled",
            message=(
                f"The webhook {one.url} was switched off: {WHY_DISABLED[one.disabled_reason]}."
                f' Repair it, enable it (PATCH /v1/webhooks/{one.id}, {{"enabled": true}}),'
                " and have what it missed sent again (POST …/recover)."
            ),
            created_at=one.disabled_at,
            webhook_id=one.id,
        )
        for one in disabled
        if one.disabled_reason is not None and one.disabled_at is not None
    ]


ROUTES = (get_me, update_me)
