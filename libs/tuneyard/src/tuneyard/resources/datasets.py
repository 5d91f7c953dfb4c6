"""Data sets that any number of jobs can use."""

from tuneyard._call import Call
from tuneyard._form import File, Form, Progress, source_of
from tuneyard._method import M, R, Raw, Resource, endpoint, listing
from tuneyard.types import Dataset, DatasetPreview, Deleted, Page


class Datasets(Resource[M, R]):
    @property
    def with_raw_response(self) -> "Datasets[M, Raw]":
        return Datasets(self._options, self._driver, raw=True)

    @endpoint("POST", "/v1/datasets", key="header")
    def create(
        self,
        *,
        file: File,
        name: str | None = None,
        filename: str | None = None,
        progress: Progress | None = None,
        idempotency_key: str | None = None,
    ) -> Call[Dataset]:
        """Upload JSON lines, at most 600 MB, as a stream. ``file``: a path, bytes, or a file open
        for reading. ``progress(done, total)`` is called with bytes. Raises ValidationError, whose
        ``details`` name each bad line."""
        fields = [("name", name)] if name is not None else []
        form = Form(fields, "file", source_of(file), filename=filename, progress=progress)
        return Call(form=form, key=idempotency_key)

    @listing("GET", "/v1/datasets")
    def list(self, *, limit: int | None = None, cursor: str | None = None) -> Call[Page[Dataset]]:
        """Newest first. ``limit``: in one page."""
        return Call(query={"limit": limit, "cursor": cursor})

    @endpoint("GET", "/v1/datasets/{dataset_id}")
    def get(self, *, dataset_id: str) -> Call[Dataset]:
        """A data set's description."""
        return Call(path={"dataset_id": dataset_id})

    @endpoint("DELETE", "/v1/datasets/{dataset_id}")
    def delete(self, *, dataset_id: str) -> Call[Deleted]:
        """No new job can use it; those that do already keep it until they have ended."""
        return Call(path={"dataset_id": dataset_id})

    @endpoint("GET", "/v1/datasets/{dataset_id}/preview")
    def preview(
        self,
        *,
        dataset_id: str,
        model: str,
        limit: int | None = None,
        cursor: str | None = None,
        seq_len: int | None = None,
    ) -> Call[DatasetPreview]:
        """Rows as a model's training sees them: tokens, which of them are learnt, how many are cut
        off. ``model`` is a UUID or a slug."""
        return Call(
            path={"dataset_id": dataset_id},
            query={"model": model, "limit": limit, "cursor": cursor, "seq_len": seq_len},
        )
