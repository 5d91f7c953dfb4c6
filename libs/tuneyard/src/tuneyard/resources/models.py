"""Models: the catalogue's and the account's own."""

from typing import Literal

from tuneyard._call import Call
from tuneyard._method import M, R, Raw, Resource, endpoint, listing
from tuneyard.types import BaseModel, Model, Page, RunModel


class Models(Resource[M, R]):
    @property
    def with_raw_response(self) -> "Models[M, Raw]":
        return Models(self._options, self._driver, raw=True)

    @listing("GET", "/v1/models")
    def list(
        self,
        *,
        owner: Literal["account", "catalog"] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Call[Page[Model]]:
        """The account's models, newest first, and then the catalogue. ``limit``: in one page."""
        return Call(query={"owner": owner, "limit": limit, "cursor": cursor})

    @endpoint("GET", "/v1/models/{model_id}")
    def get(self, *, model_id: str) -> Call[Model]:
        """A model by its UUID, or its slug."""
        return Call(path={"model_id": model_id})

    @listing("GET", "/v1/base-models")
    def list_base(self) -> Call[Page[BaseModel]]:
        """The catalogue: what a job can begin with."""
        return Call()

    @listing("GET", "/api/v1/models")
    def list_for_runs(self) -> Call[Page[RunModel]]:
        """The models that a run can name."""
        return Call()
