"""Events that the gateway writes: the first of every ``job:<id>`` stream."""

from uuid import UUID

from libs.contracts.base import (
    Cents,
    Count,
    DatasetRef,
    Event,
    JobType,
    ModelRef,
    Sha256,
    ShortText,
    Surface,
)
from libs.contracts.billing import PaidBy
from libs.contracts.scheduler import Checkpoint
from libs.contracts.training import (
    ContractParams,
    FinetuneParams,
    Hyperparams,
    TrainParams,
    the_one,
)


class JobSubmitted(Event, frozen=True, kw_only=True, tag="job.submitted.v1"):
    """A paid and validated job stands in the queue. Enough to answer the submission again.

    ``request_sha256`` is the hash of the parameters that an idempotency key is compared by;
    ``tokens_planned`` is what ``price_cents`` was computed from. ``params`` are a fine-tune's
    hyperparameters; those of the two other types have a field of their own. ``balance_after_cents``
    is the balance as it was when a card is to pay. ``validation`` is a data set that is held out,
    ``start_from`` a checkpoint of another job, ``recommended`` names the hyperparameters that
    nobody asked for and that are what the recommendation says.
    """

    job_type: JobType
    surface: Surface
    model: ModelRef
    dataset: DatasetRef | None
    params: FinetuneParams | None
    output_name: ShortText | None
    label: ShortText | None
    priority: bool
    price_cents: Cents
    currency: ShortText
    plan_name: ShortText | None
    balance_after_cents: Cents
    tokens_planned: Count
    request_sha256: Sha256
    output_model_id: UUID
    train_params: TrainParams | None = None
    contract_params: ContractParams | None = None
    paid_by: PaidBy = "balance"
    validation: DatasetRef | None = None
    start_from: Checkpoint | None = None
    recommended: tuple[ShortText, ...] = ()

    @property
    def hyperparams(self) -> Hyperparams:
        return the_one(self.params, self.train_params, self.contract_params)
