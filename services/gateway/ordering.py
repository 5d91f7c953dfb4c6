"""From a request to its order: everything that it names is looked up, then decided on."""

from uuid import UUID

from msgspec.structs import replace

from libs.jobstate.state import decode_state
from services.gateway.bases import find_base
from services.gateway.contradictions import refuse_contradictions
from services.gateway.dataset_rows import own_dataset
from services.gateway.http.errors import not_found
from services.gateway.job_requests import (
    AnyRequest,
    ContractEstimate,
    ContractRequest,
    FinetuneEstimate,
    FinetuneRequest,
    StartFrom,
    model_name,
)
from services.gateway.job_rows import ONE_SQL
from services.gateway.model import Key, Order
from services.gateway.orders import order_of
from services.gateway.parts import Parts
from services.gateway.starting_points import starting_point


async def ordered(parts: Parts, account_id: UUID, wanted: AnyRequest, key: Key | None) -> Order:
    """Raises ApiError 422 or 404."""
    base = await find_base(parts, account_id, model_name(wanted))
    dataset = validation = None
    if wanted.dataset_id is not None:
        dataset = await own_dataset(parts.pool, account_id, wanted.dataset_id)
    if not isinstance(wanted, ContractRequest | ContractEstimate):
        held_out = wanted.validation_dataset_id
        if held_out is not None:
            validation = await own_dataset(parts.pool, account_id, held_out)
    refuse_contradictions(wanted, dataset, validation)
    order = order_of(
        wanted, account_id=account_id, key=key, base=base, dataset=dataset, validation=validation
    )
    if isinstance(wanted, FinetuneRequest | FinetuneEstimate) and wanted.start_from is not None:
        return await _beginning(parts, order, wanted.start_from)
    return order


async def _beginning(parts: Parts, order: Order, start_from: StartFrom) -> Order:
    """The order, with the checkpoint to begin with."""
    state = await parts.pool.fetchval(ONE_SQL, start_from.job_id, order.account_id)
    if state is None:
        raise not_found("job to start from; GET /v1/jobs lists those there are")
    chosen = starting_point(start_from, decode_state(state), order.model, order.params, parts.now())
    return replace(order, start_from=chosen)
