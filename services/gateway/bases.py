"""The model that a job works on: of the catalogue, or of the account's own."""

from uuid import UUID

from msgspec import Struct, structs

from libs.contracts.base import ModelRef, ModelSource
from libs.contracts.training import FinetuneParams
from libs.jobstate.state import JobState, decode_state
from services.gateway.catalog import CatalogModel, Shape
from services.gateway.http.errors import ApiError
from services.gateway.parts import Parts
from services.gateway.recommend_rules import ModelFacts
from services.gateway.views import downloadable

WEIGHTS, ADAPTER = "model", "adapter"
"""The roles of the files that hold whole weights, and of those that hold an adapter's."""

MERGED = "merged-"
"""How the names of a merged model's files begin, where the adapter's lie beside them."""

MAX_GENERATIONS = 64
"""How far back a model's origin is looked for; nobody tunes a tune so often."""

OWN_MODEL_SQL = """
SELECT state FROM log.job
WHERE output_model_id = $1 AND account_id = $2 AND status = 'completed'
"""
MAKER_SQL = """
SELECT state FROM log.job WHERE id = $1 AND account_id = $2 AND status = 'completed'
"""


class Base(Struct, frozen=True, kw_only=True):
    """A model to work on, and what a recommendation for it goes by. ``adapter`` is how the adapter
    that it comes with was made."""

    ref: ModelRef
    facts: ModelFacts
    adapter: FinetuneParams | None = None


async def find_base(parts: Parts, account_id: UUID, name: str) -> Base:
    """By slug or by UUID. Raises ApiError 422 ``model_not_available``."""
    listed = parts.catalog.find(name)
    if listed is not None:
        return catalog_base(parts, listed)
    job = await own_model(parts, account_id, name)
    if job is None:
        raise not_available(name, "GET /v1/models lists those that are")
    if not downloadable(job, parts.now()):
        raise not_available(name, "its files are no longer kept")
    origin = await origin_of(parts, account_id, job)
    if origin is None:
        raise not_available(name, "its origin is no longer in the catalogue")
    source, adapter = weights_of(job)
    if source is None:
        raise not_available(name, "its job has left no weights; run it again")
    if adapter is not None and not await source_available(parts, account_id, source):
        raise not_available(name, "the model that it adapts is no longer available")
    return Base(
        ref=ModelRef(
            id=job.output_model_id,
            slug=job.output_name or str(job.output_model_id),
            params=params_made(job),
            source=source,
            adapter=adapter,
        ),
        facts=own_facts(job, origin),
        adapter=job.params if adapter is not None else None,
    )


def catalog_base(parts: Parts, model: CatalogModel) -> Base:
    """Raises ApiError 422 when its weights can't be loaded here."""
    if not parts.catalog.available(model):
        raise not_available(model.slug, "this installation can't load its weights")
    return Base(ref=model.ref, facts=catalog_facts(model))


async def own_model(parts: Parts, account_id: UUID, name: str) -> JobState | None:
    """The completed job of the account that made the model."""
    try:
        model_id = UUID(name)
    except ValueError:
        return None
    state: bytes | None = await parts.pool.fetchval(OWN_MODEL_SQL, model_id, account_id)
    return None if state is None else decode_state(state)


def weights_of(job: JobState) -> tuple[ModelSource | None, ModelSource | None]:
    """Where the model that a completed job made lies: its whole weights, or those that the job
    itself worked on, with an adapter. A merged model is whole, and needs none."""
    for file in job.files:
        if file.role == WEIGHTS:
            folder, _, name = file.key.rpartition("/")
            place = f"{folder}/{MERGED}" if name.startswith(MERGED) else folder
            return ModelSource(kind="s3", location=place), None
    for file in job.files:
        if file.role == ADAPTER:
            folder = file.key.rpartition("/")[0]
            return job.model.source, ModelSource(kind="s3", location=folder)
    return None, None


async def own_available(parts: Parts, account_id: UUID, job: JobState) -> bool:
    """Whether a job can take the model that this one made as its base now."""
    source, adapter = weights_of(job)
    if source is None or not downloadable(job, parts.now()):
        return False
    return adapter is None or await source_available(parts, account_id, source)


async def source_available(parts: Parts, account_id: UUID, source: ModelSource) -> bool:
    """Whether the weights that an adapter lies on are there: the catalogue's, as they were when it
    was made, or those of an own model that is still kept."""
    for model in parts.catalog.models:
        if model.source == source:
            return parts.catalog.available(model)
    if source.maker is None:
        return False
    state = await parts.pool.fetchval(MAKER_SQL, source.maker, account_id)
    return state is not None and downloadable(decode_state(state), parts.now())


async def origin_of(parts: Parts, account_id: UUID, job: JobState) -> CatalogModel | None:
    """The catalogue's model at the beginning of a line of own ones; None if it is gone."""
    for _ in range(MAX_GENERATIONS):
        if (listed := parts.catalog.find(str(job.model.id))) is not None:
            return listed
        before = await own_model(parts, account_id, str(job.model.id))
        if before is None:
            break
        job = before
    return None


def params_made(job: JobState) -> int:
    return job.result.params_after if job.result else job.model.params


def catalog_facts(model: CatalogModel) -> ModelFacts:
    return ModelFacts(
        params=max(1, model.params), shape=model.shape, swept=model.swept, advised=model.finetune
    )


def own_facts(job: JobState, origin: CatalogModel | None) -> ModelFacts:
    """One that has grown or shrunk has more or fewer blocks of the same width, and what was swept
    was another model."""
    params = max(1, params_made(job))
    if origin is None:
        return ModelFacts(params=params)
    return ModelFacts(params=params, shape=_shape_at(origin, params), advised=origin.finetune)


def _shape_at(origin: CatalogModel, params: int) -> Shape | None:
    if origin.shape is None or origin.params == 0:
        return origin.shape
    sides = max(1, origin.shape.linear_sides * params // origin.params)
    return structs.replace(origin.shape, linear_sides=sides)


def not_available(name: str, why: str) -> ApiError:
    return ApiError("model_not_available", f"The model {name!r} is not available here: {why}.")
