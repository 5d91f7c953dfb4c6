"""The models that a job can work on: the catalogue's, and those the account has made."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar.params import FromPath
from msgspec import Meta, Struct

from libs.jobstate.state import JobState, decode_state
from libs.jobstate.view import ModelName
from services.gateway.bases import own_available, own_model, params_made, weights_of
from services.gateway.catalog import Catalog, CatalogModel
from services.gateway.http.errors import not_found
from services.gateway.http.operation import operation
from services.gateway.http.pages import Page, PageQuery, Place, page, place_of
from services.gateway.http.replies import Reply, reply
from services.gateway.parts import Asked, Parts, caller_of, parts_of
from services.gateway.reading import read_query

Owner = Literal["catalog", "account"]

BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)
"""When the catalogue's models count as made: at the end of a list that begins with the newest."""

OWN_SQL = """
SELECT state FROM log.job
WHERE account_id = $1 AND status = 'completed' AND (created_at, id) < ($2, $3)
ORDER BY created_at DESC, id DESC LIMIT $4
"""


class BaseModel(Struct, frozen=True, kw_only=True):
    """``id`` and ``slug`` are interchangeable wherever a base model is named."""

    id: UUID
    slug: str
    name: str
    provider: str
    params: int
    available: bool
    terms_url: str
    use_policy_url: str | None


class Model(Struct, frozen=True, kw_only=True):
    """A model of the catalogue or of the account's own.

    ``available`` says whether a job can take it as its base now. An own model has no terms, no
    provider and no slug; it names the job that made it and what that job worked on.
    """

    id: UUID
    slug: str | None
    name: str
    owned_by: Owner
    params: int
    available: bool
    kind: Literal["model", "adapter"]
    created_at: datetime | None
    provider: str | None = None
    terms_url: str | None = None
    use_policy_url: str | None = None
    job_id: UUID | None = None
    base_model: ModelName | None = None
    expires_at: datetime | None = None


class ModelsQuery(PageQuery, frozen=True, kw_only=True):
    """``owner`` leaves only the catalogue's models, or only the account's."""

    owner: Annotated[Owner, Meta(description="Whose models: null for all.")] | None = None


@operation(
    "GET",
    "/v1/base-models",
    id="listBaseModels",
    tag="Models",
    scope="read",
    answer=Page[BaseModel],
)
async def list_base_models(request: Asked) -> Reply:
    """List the catalogue of base models, whole."""
    catalog = parts_of(request).catalog
    models = [
        BaseModel(
            id=model.id,
            slug=model.slug,
            name=model.name,
            provider=model.provider,
            params=model.params,
            available=catalog.available(model),
            terms_url=model.terms_url,
            use_policy_url=model.use_policy_url,
        )
        for model in catalog.models
    ]
    return reply(Page(models, None, False))


@operation(
    "GET",
    "/v1/models",
    id="listModels",
    tag="Models",
    scope="read",
    answer=Page[Model],
    query=ModelsQuery,
    links={"model_id": "/data/0/id"},
)
async def list_models(request: Asked) -> Reply:
    """List the account's own models, newest first, and then the catalogue's."""
    query = read_query(request, ModelsQuery)
    parts, after = parts_of(request), place_of(query.cursor)
    found: list[tuple[Place, Model]] = []
    if query.owner != "catalog":
        account_id = caller_of(request).account_id
        jobs = await _own_jobs(parts.pool, account_id, after, query.limit + 1)
        found += [
            (Place(job.created_at, job.id), await _own_view(parts, account_id, job)) for job in jobs
        ]
    if query.owner != "account" and len(found) <= query.limit:
        listed = sorted(parts.catalog.models, key=lambda model: model.id, reverse=True)
        found += [
            (place, catalog_view(model, parts.catalog))
            for model in listed
            if _before(place := Place(BEFORE_ALL, model.id), after)
        ]
    shown = page(found[: query.limit + 1], query.limit, lambda row: row[0])
    return reply(Page([model for _, model in shown.data], shown.next_cursor, shown.has_more))


@operation(
    "GET",
    "/v1/models/{model_id}",
    id="getModel",
    tag="Models",
    scope="read",
    answer=Model,
)
async def one_model(request: Asked, model_id: FromPath[str]) -> Reply:
    """Get a model, by its UUID or its slug."""
    parts = parts_of(request)
    if (listed := parts.catalog.find(model_id)) is not None:
        return reply(catalog_view(listed, parts.catalog))
    account_id = caller_of(request).account_id
    job = await own_model(parts, account_id, model_id)
    if job is None:
        raise not_found("model")
    return reply(await _own_view(parts, account_id, job))


async def _own_jobs(pool: Any, account_id: UUID, after: Place, limit: int) -> Sequence[JobState]:
    rows = await pool.fetch(OWN_SQL, account_id, after.created_at, after.id, limit)
    return [decode_state(row["state"]) for row in rows]


def _before(place: Place, other: Place) -> bool:
    return (place.created_at, place.id) < (other.created_at, other.id)


def catalog_view(model: CatalogModel, catalog: Catalog) -> Model:
    return Model(
        id=model.id,
        slug=model.slug,
        name=model.name,
        owned_by="catalog",
        params=model.params,
        available=catalog.available(model),
        kind="model",
        created_at=None,
        provider=model.provider,
        terms_url=model.terms_url,
        use_policy_url=model.use_policy_url,
    )


async def _own_view(parts: Parts, account_id: UUID, job: JobState) -> Model:
    return own_view(job, available=await own_available(parts, account_id, job))


def own_view(job: JobState, *, available: bool) -> Model:
    """The model that a completed job has made. An adapter brings the model below along."""
    source, adapter = weights_of(job)
    return Model(
        id=job.output_model_id,
        slug=None,
        name=job.output_name or job.label or str(job.output_model_id),
        owned_by="account",
        params=params_made(job),
        available=available,
        kind="model" if source is not None and adapter is None else "adapter",
        created_at=job.finished_at,
        job_id=job.id,
        base_model=ModelName(job.model.id, job.model.slug),
        expires_at=job.artifacts_expires_at,
    )


ROUTES = (list_base_models, list_models, one_model)
