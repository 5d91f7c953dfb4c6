"""Questions that artifact answers: links into the object store."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from libs.contracts.base import Count, Epoch, ObjectKey, ShortText, Step
from libs.contracts.rpc import Rpc


class GetInputs(Struct, frozen=True, kw_only=True):
    """The presigned GET URLs of what a leased attempt needs."""

    job_id: UUID
    epoch: Epoch


class InputFile(Struct, frozen=True, kw_only=True):
    """``sha256`` is null where nobody has recorded it: of the operator's own files."""

    name: ShortText
    url: str
    sha256: ShortText | None = None


class Inputs(Struct, frozen=True, kw_only=True, tag="inputs"):
    """``model_files`` is empty unless the base model lies in the object store, ``adapter_files``
    unless the job begins with an adapter."""

    dataset_url: str | None
    checkpoint_url: str | None
    model_files: tuple[InputFile, ...]
    adapter_files: tuple[InputFile, ...] = ()
    validation_url: str | None = None
    start_from_url: str | None = None


class GetUploadUrl(Struct, frozen=True, kw_only=True):
    """A presigned PUT for one file of a leased attempt; keys are under the attempt's epoch."""

    job_id: UUID
    epoch: Epoch
    name: ShortText
    size_bytes: Count


class UploadUrl(Struct, frozen=True, kw_only=True, tag="upload_url"):
    key: ObjectKey
    url: str


class LeaseLost(Struct, frozen=True, kw_only=True, tag="lease_lost"):
    pass


class GetDownloads(Struct, frozen=True, kw_only=True):
    """Fresh links to a published artifact: the archive alone, or each file."""

    job_id: UUID
    archive: bool


class DownloadLink(Struct, frozen=True, kw_only=True):
    """One file at a presigned address, which needs no key and works for ``expires_in`` seconds."""

    name: ShortText
    role: ShortText
    url: str
    size_bytes: Count
    sha256: ShortText
    expires_in: int


class Downloads(Struct, frozen=True, kw_only=True, tag="downloads"):
    links: tuple[DownloadLink, ...]


class GetCheckpoints(Struct, frozen=True, kw_only=True):
    """Fresh links to the checkpoints that are kept of a job."""

    job_id: UUID


class CheckpointLink(Struct, frozen=True, kw_only=True):
    """One checkpoint, a tar, at a presigned address, which needs no key and works for
    ``expires_in`` seconds, unless the checkpoint itself goes before."""

    step: Step
    tokens_processed: Count
    size_bytes: Count
    sha256: ShortText
    created_at: datetime
    url: str
    expires_in: int


class Checkpoints(Struct, frozen=True, kw_only=True):
    """Newest first."""

    links: tuple[CheckpointLink, ...]


class NotPublished(Struct, frozen=True, kw_only=True, tag="not_published"):
    pass


INPUTS: Rpc[GetInputs, Inputs | LeaseLost] = Rpc(
    "artifact", "inputs", GetInputs, Inputs | LeaseLost
)
UPLOAD_URL: Rpc[GetUploadUrl, UploadUrl | LeaseLost] = Rpc(
    "artifact", "upload_url", GetUploadUrl, UploadUrl | LeaseLost
)
CHECKPOINTS: Rpc[GetCheckpoints, Checkpoints] = Rpc(
    "artifact", "checkpoints", GetCheckpoints, Checkpoints
)
DOWNLOADS: Rpc[GetDownloads, Downloads | NotPublished] = Rpc(
    "artifact", "downloads", GetDownloads, Downloads | NotPublished
)
