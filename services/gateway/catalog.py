"""The base models on offer, and whether each one's weights can really be loaded here."""

import asyncio
import tomllib
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated
from uuid import UUID

import aiohttp
import msgspec
import structlog
from msgspec import Meta, Struct

from libs.contracts.base import Count, ModelRef, ModelSource, ShortText
from libs.objectstore import ObjectStore, ObjectStoreError

ASK_TIMEOUT = 3.0  # seconds for one question to the hub
ASK_EVERY = 600.0  # seconds; a model does not come and go by the minute

logger = structlog.get_logger()


class FinetuneDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a LoRA fine-tune of this model takes unless its request says otherwise."""

    learning_rate: Annotated[float, Meta(gt=0, le=1)]
    seq_len: Annotated[int, Meta(ge=16, le=131_072)]
    batch_size: Annotated[int, Meta(ge=1, le=4096)]


class Shape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a model's architecture the recommended hyperparameters follow from.

    ``linear_sides`` is the sum of inputs and outputs of all linear layers in all blocks: a LoRA
    adapter has that many weights for each rank.
    """

    family: ShortText
    hidden_size: Annotated[int, Meta(ge=1, le=2**20)]
    linear_sides: Annotated[int, Meta(ge=1, le=2**40)]


class Swept(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The LoRA learning rate that a sweep over this very model found best, and where it says so."""

    learning_rate: Annotated[float, Meta(gt=0, le=1)]
    batch_size: Annotated[int, Meta(ge=1, le=4096)]
    source: ShortText
    url: ShortText | None = None


class CatalogModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: UUID
    slug: ShortText
    name: ShortText
    provider: ShortText
    params: Count
    terms_url: str
    source: ModelSource
    finetune: FinetuneDefaults
    shape: Shape | None = None
    swept: Swept | None = None
    use_policy_url: str | None = None

    @property
    def ref(self) -> ModelRef:
        return ModelRef(id=self.id, slug=self.slug, params=self.params, source=self.source)


class _CatalogFile(Struct, frozen=True, forbid_unknown_fields=True):
    model: tuple[CatalogModel, ...]


class CatalogError(Exception):
    """The catalogue file can't be used; the text says where it is wrong."""


def read_catalog(path: Path) -> tuple[CatalogModel, ...]:
    """Raises CatalogError."""
    try:
        models = msgspec.convert(tomllib.loads(path.read_text()), _CatalogFile).model
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path}: {error}") from error
    names = [name for model in models for name in (model.slug, str(model.id))]
    if len(set(names)) < len(names):
        raise CatalogError(f"{path}: two models share a slug or an id; every one needs its own")
    for model in models:
        if model.source.kind == "hub" and model.source.revision is None:
            raise CatalogError(f"{path}: {model.slug} needs a pinned source.revision")
    return models


class Catalog:
    """Models by slug and UUID. A remote model is unavailable until its place has answered.

    ``hub`` is the address of the model hub, ``hub_token`` for models that their owners give to
    known people only.
    """

    def __init__(
        self,
        models: tuple[CatalogModel, ...],
        models_dir: Path,
        store: ObjectStore,
        *,
        hub: str,
        hub_token: str | None = None,
    ) -> None:
        self._hub = hub
        self._hub_headers = {"Authorization": f"Bearer {hub_token}"} if hub_token else {}
        self.models = models
        self._models_dir = models_dir
        self._store = store
        self._by_name: Mapping[str, CatalogModel] = {
            name: model for model in models for name in (model.slug, str(model.id))
        }
        self._reachable: frozenset[UUID] = frozenset()

    def find(self, name: str) -> CatalogModel | None:
        """By slug or by UUID, in any of a UUID's spellings."""
        if (model := self._by_name.get(name)) is not None:
            return model
        try:
            return self._by_name.get(str(UUID(name)))
        except ValueError:
            return None

    def available(self, model: CatalogModel) -> bool:
        """Whether a job on this model could load its weights. Asks nothing of the network."""
        if model.source.kind != "local":
            return model.id in self._reachable
        folder = self._models_dir / model.source.location
        return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))

    async def watch(self) -> None:
        """Ask for every model that lies elsewhere, again and again. Never returns."""
        while True:
            await self.ask_once()
            await asyncio.sleep(ASK_EVERY)

    async def ask_once(self) -> None:
        """Find out which of the models that lie elsewhere would be handed to us now."""
        remote = [model for model in self.models if model.source.kind != "local"]
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            answers = await asyncio.gather(*(self._answers(session, m.source) for m in remote))
        self._reachable = frozenset(
            model.id for model, there in zip(remote, answers, strict=True) if there
        )

    async def _answers(self, session: aiohttp.ClientSession, source: ModelSource) -> bool:
        """Whether the pinned revision's config, and so its weights, would be handed to us."""
        try:
            if source.kind == "s3":
                await self._store.size(f"{source.location}/config.json")
                return True
            url = f"{self._hub}/{source.location}/resolve/{source.revision}/config.json"
            async with session.head(url, headers=self._hub_headers, allow_redirects=True) as answer:
                return answer.status == HTTPStatus.OK
        except (OSError, TimeoutError, aiohttp.ClientError, ObjectStoreError) as error:
            logger.info("model not reachable", model=source.location, error=repr(error))
            return False
