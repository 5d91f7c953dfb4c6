"""What any trainer answers while it trains: how rows look to a model."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from libs.contracts.artifact_rpc import InputFile
from libs.contracts.base import Count, DatasetKind, LongText, ModelSource
from libs.contracts.rpc import Rpc

MAX_PREVIEW_ROWS = 20


class GetPreview(Struct, frozen=True, kw_only=True):
    """The rows from the byte ``offset`` on, which is where the line ``line`` begins, as training
    would see them. ``files`` are links to a tokenizer's that lies in the object store."""

    source: ModelSource
    files: tuple[InputFile, ...]
    dataset_url: str
    kind: DatasetKind
    offset: Count
    line: Annotated[int, Meta(ge=1, le=2**53)]
    limit: Annotated[int, Meta(ge=1, le=MAX_PREVIEW_ROWS)]
    seq_len: Annotated[int, Meta(ge=16, le=131_072)]


class PreviewToken(Struct, frozen=True):
    """``text`` is the token's alone; a part of a character shows as U+FFFD. ``trained``: the model
    learns to say it."""

    id: int
    text: str
    trained: bool


class PreviewRow(Struct, frozen=True, kw_only=True):
    """A row as training sees it, after what ``seq_len`` cuts off: ``truncated_tokens``.

    ``text`` is what ``tokens`` say together, special tokens among them. ``token_count`` and
    ``trained_count`` are of the whole row, of which only the beginning may be shown. Of a
    preference, ``answer`` says which of its two conversations this is. ``problem`` is why the row
    is not learnt from; null when it is.
    """

    line: Count
    answer: Literal["chosen", "rejected"] | None
    text: str
    tokens: tuple[PreviewToken, ...]
    token_count: Count
    trained_count: Count
    truncated_tokens: Count
    problem: LongText | None


class NextRows(Struct, frozen=True):
    """Where the rows after these begin."""

    offset: Count
    line: Count


class Preview(Struct, frozen=True, kw_only=True, tag="preview"):
    """``following`` is null at the end of the data set."""

    rows: tuple[PreviewRow, ...]
    following: NextRows | None


class PreviewRefused(Struct, frozen=True, kw_only=True, tag="refused"):
    """The model's tokenizer can't be had here."""

    reason: LongText


PREVIEW: Rpc[GetPreview, Preview | PreviewRefused] = Rpc(
    "trainer", "preview", GetPreview, Preview | PreviewRefused
)
