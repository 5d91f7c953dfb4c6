"""Hyperparameters to start with: ``POST /v1/training/recommend``."""

from typing import Annotated, Literal, assert_never
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from libs.contracts.training import FinetuneMethod
from services.gateway.bases import catalog_facts, origin_of, own_facts, own_model
from services.gateway.dataset_rows import own_dataset
from services.gateway.http.errors import invalid, not_found
from services.gateway.http.operation import operation
from services.gateway.http.replies import Reply, reply
from services.gateway.job_requests import ModelRefText
from services.gateway.orders import facts_of
from services.gateway.parts import Asked, Parts, caller_of, parts_of
from services.gateway.reading import read_json
from services.gateway.recommend import recommend_finetune, recommend_train
from services.gateway.recommend_answers import Recommendation
from services.gateway.recommend_rules import USUAL, DataFacts, ModelFacts

MAX_PARAMS = 10**13  # no model has a tenth of it
MAX_TOKENS = 10**13  # as much as a job may process
BYTES_PER_TOKEN = 4  # as data sets are estimated at upload


class RecommendRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model and a data set, by id or by size; where both are given, the size counts, and of
    tokens and bytes the tokens."""

    type: Literal["train", "finetune"] = "train"
    method: Annotated[FinetuneMethod, Meta(description="Of a finetune job.")] = "lora"
    base_model_id: ModelRefText | None = None
    dataset_id: UUID | None = None
    params: (
        Annotated[int, Meta(ge=1, le=MAX_PARAMS, description="Parameters of the model.")] | None
    ) = None
    dataset_tokens: (
        Annotated[int, Meta(ge=1, le=MAX_TOKENS, description="Tokens of the data set.")] | None
    ) = None
    dataset_bytes: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_TOKENS * BYTES_PER_TOKEN,
                description=f"UTF-8 bytes of the data set's texts: {BYTES_PER_TOKEN} a token.",
            ),
        ]
        | None
    ) = None


decode_request: msgspec.json.Decoder[RecommendRequest] = msgspec.json.Decoder(RecommendRequest)


@operation(
    "POST",
    "/v1/training/recommend",
    id="recommendTraining",
    tag="Training",
    scope="read",
    answer=Recommendation,
    body=RecommendRequest,
    refuses=("not_found",),
)
async def recommend_training(request: Asked) -> Reply:
    """Recommend hyperparameters for a model and a data set.

    Each recommended number comes with a window to tune within, the rule that it follows, the rule's
    source and how sure it is: swept over this very model, a formula on known inputs, or
    extrapolated. Nothing is reserved or stored.
    """
    wanted = await read_json(request, decode_request)
    if wanted.type == "train" and wanted.method != "lora":
        raise invalid("method: only a finetune job has one; send type finetune, or leave it out")
    missing = _missing(wanted)
    if missing:
        raise invalid(f"Send {' and '.join(missing)}.")
    parts, account_id = parts_of(request), caller_of(request).account_id
    model = await _model(parts, account_id, wanted)
    data = await _data(parts, account_id, wanted)
    match wanted.type:
        case "train":
            return reply(recommend_train(model, data))
        case "finetune":
            return reply(recommend_finetune(model, data, method=wanted.method))
        case _:
            assert_never(wanted.type)


def _missing(wanted: RecommendRequest) -> list[str]:
    missing = []
    if wanted.base_model_id is None and wanted.params is None:
        missing.append("base_model_id or params")
    if wanted.dataset_id is None and wanted.dataset_tokens is None and wanted.dataset_bytes is None:
        missing.append("dataset_id, dataset_tokens or dataset_bytes")
    return missing


async def _model(parts: Parts, account_id: UUID, wanted: RecommendRequest) -> ModelFacts:
    """Raises ApiError 404. Weights needn't be there: a size is all that is asked of a model."""
    found = None
    if wanted.base_model_id is not None:
        found = await _known_model(parts, account_id, wanted.base_model_id)
    if wanted.params is None:
        assert found is not None
        return found
    # Of another size than the one named, the model has another shape; how it is fed may stay.
    return ModelFacts(params=wanted.params, advised=found.advised if found else USUAL)


async def _known_model(parts: Parts, account_id: UUID, name: str) -> ModelFacts:
    listed = parts.catalog.find(name)
    if listed is not None:
        return catalog_facts(listed)
    job = await own_model(parts, account_id, name)
    if job is None:
        raise not_found("model; GET /v1/models lists those there are")
    return own_facts(job, await origin_of(parts, account_id, job))


async def _data(parts: Parts, account_id: UUID, wanted: RecommendRequest) -> DataFacts:
    """Raises ApiError 404."""
    known = None
    if wanted.dataset_id is not None:
        dataset = await own_dataset(parts.pool, account_id, wanted.dataset_id)
        known = facts_of(dataset)
    if wanted.dataset_tokens is not None:
        return DataFacts(tokens=wanted.dataset_tokens)
    if wanted.dataset_bytes is not None:
        return DataFacts(tokens=max(1, wanted.dataset_bytes // BYTES_PER_TOKEN))
    assert known is not None
    return known


ROUTES = (recommend_training,)
