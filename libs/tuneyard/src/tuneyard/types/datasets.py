"""Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."""

from datetime import datetime

from msgspec import Struct

from tuneyard.types.jobs import ModelName


class Dataset(Struct, frozen=True, kw_only=True):
    """As its owner sees it. `tokens` is an estimate: UTF-8 bytes of the texts / 4."""

    id: str
    name: str
    filename: str | None = None
    kind: str
    """Known are `instruction`, `messages`, `preference`, `prompt_completion`, `text`; a newer
    server may say others.
    """
    rows: int
    tokens: int
    size_bytes: int
    sha256: str
    created_at: datetime


class Deleted(Struct, frozen=True, kw_only=True):
    """What was asked for is gone."""

    id: str
    deleted: bool


class PreviewToken(Struct, frozen=True, kw_only=True):
    """`text` is the token's alone; a part of a character shows as U+FFFD. `trained`: the model
    learns to say it.
    """

    id: int
    text: str
    trained: bool


class PreviewRow(Struct, frozen=True, kw_only=True):
    """A row as training sees it, after what `seq_len` cuts off: `truncated_tokens`.

    `text` is what `tokens` say together, special tokens among them. `token_count` and
    `trained_count` are of the whole row, of which only the beginning may be shown. Of a
    preference, `answer` says which of its two conversations this is. `problem` is why the row
    is not learnt from; null when it is.
    """

    line: int
    answer: str | None = None
    """Known are `chosen`, `rejected`; a newer server may say others."""
    text: str
    tokens: list[PreviewToken] = []
    token_count: int
    trained_count: int
    truncated_tokens: int
    problem: str | None = None


class DatasetPreview(Struct, frozen=True, kw_only=True):
    """Rows in their order, as many as fit into an answer. Of a preference, each answer is a row.
    `seq_len` is what longer rows are cut to; a job that names none takes the same.
    """

    dataset_id: str
    kind: str
    """Known are `instruction`, `messages`, `preference`, `prompt_completion`, `text`; a newer
    server may say others.
    """
    model: ModelName
    seq_len: int
    data: list[PreviewRow] = []
    next_cursor: str | None = None
    has_more: bool
