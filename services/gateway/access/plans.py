"""The plan that an account's subscription gives it: what ``limits.toml`` allows it from then on."""

from typing import Any

from libs.contracts.gateway_rpc import KeepPlan, PlanKept
from services.gateway.access.limits import FREE_PLAN

SOLD = (FREE_PLAN, "plus", "pro")
"""Any other plan was given by the operator, and no subscription takes it away."""

# Gateways believe what they know of a key for a quarter of a second; then they see it.
KEEP_SQL = """
UPDATE gateway.account SET plan = $2, plan_reading = $3
WHERE id = $1 AND plan_reading <= $3 AND plan = ANY($4)
"""


async def keep_plan(pool: Any, told: KeepPlan) -> PlanKept:
    plan = FREE_PLAN if told.subscription == "none" else told.subscription
    await pool.execute(KEEP_SQL, told.account_id, plan, told.reading, list(SOLD))
    return PlanKept()
