"""What the gateway is told over NATS request-reply."""

from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from libs.contracts.billing_rpc import Subscription
from libs.contracts.rpc import Rpc


class KeepPlan(Struct, frozen=True, kw_only=True):
    """An account's subscription, as billing has read it at the card provider. ``reading`` counts
    those of the account, so what was overtaken changes nothing; to repeat it does not, either."""

    account_id: UUID
    subscription: Subscription
    reading: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class PlanKept(Struct, frozen=True, kw_only=True, tag="plan_kept"):
    """This or a later reading is in force, or the operator has given the account another plan."""


KEEP_PLAN: Rpc[KeepPlan, PlanKept] = Rpc("gateway", "keep_plan", KeepPlan, PlanKept)
