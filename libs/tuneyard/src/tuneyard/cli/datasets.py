"""Data sets: upload, see and delete them."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tuneyard._form import Progress
from tuneyard.cli.context import Context
from tuneyard.cli.exits import OK, CliError
from tuneyard.cli.options import (
    Commands,
    add_idempotency_key,
    add_page,
    add_yes,
    command,
    group,
)
from tuneyard.cli.text import moment, pairs, plain, size, table
from tuneyard.types import Dataset, DatasetPreview, Page, PreviewRow

if TYPE_CHECKING:
    from rich.text import Text

    from tuneyard import Tuneyard

SEARCHED = 1000  # of the newest data sets, for one that has the same bytes: ten requests
PAGE = 100  # the most that one page may have


def add(commands: Commands) -> None:
    datasets = group(commands, "datasets", "upload, see and delete data sets")
    one = command(datasets, "add", add_dataset, "upload JSON lines")
    one.add_argument("file", type=Path, metavar="FILE")
    one.add_argument("--name", help="for people; left out: the file's")
    add_idempotency_key(one)
    add_page(command(datasets, "ls", list_datasets, "list the data sets"))
    one = command(datasets, "preview", preview, "show rows as a model's training sees them")
    one.add_argument("dataset_id", metavar="DATASET", help="its id")
    one.add_argument("--model", required=True, metavar="MODEL", help="its slug or its id")
    one.add_argument("--seq-len", type=int, metavar="N", help="what longer rows are cut to")
    add_page(one)
    one = command(datasets, "rm", delete, "delete a data set")
    one.add_argument("dataset_id", metavar="DATASET", help="its id")
    add_yes(one)


def add_dataset(
    context: Context, *, file: Path, name: str | None, idempotency_key: str | None
) -> int:
    with context.client() as client, progress_of(context, f"uploading {file.name}") as progress:
        raw = client.datasets.with_raw_response.create(
            file=file, name=name, progress=progress, idempotency_key=idempotency_key
        )
    context.reply(raw, _dataset)
    return OK


def _dataset(dataset: Dataset) -> object:
    return pairs(
        [
            ("id", dataset.id),
            ("name", dataset.name),
            ("kind", dataset.kind),
            ("rows", f"{dataset.rows:,}"),
            ("tokens", f"about {dataset.tokens:,}"),
            ("size", size(dataset.size_bytes)),
            ("sha256", dataset.sha256),
        ]
    )


def list_datasets(context: Context, *, limit: int | None, cursor: str | None) -> int:
    with context.client() as client:
        context.page(client.datasets.with_raw_response.list(limit=limit, cursor=cursor), _datasets)
    return OK


def _datasets(page: Page[Dataset]) -> object:
    return table(
        ("id", "name", "kind", "rows", "tokens", "size", "created"),
        [
            (
                each.id,
                each.name,
                each.kind,
                f"{each.rows:,}",
                f"{each.tokens:,}",
                size(each.size_bytes),
                moment(each.created_at),
            )
            for each in page.data
        ],
        right="rows tokens size",
    )


def preview(
    context: Context,
    *,
    dataset_id: str,
    model: str,
    seq_len: int | None,
    limit: int | None,
    cursor: str | None,
) -> int:
    with context.client() as client:
        raw = client.datasets.with_raw_response.preview(
            dataset_id=dataset_id, model=model, seq_len=seq_len, limit=limit, cursor=cursor
        )
    context.reply(raw, _preview)
    if not context.json and (following := raw.parse().next_cursor):
        context.note(f"there is more: --cursor {following}")
    return OK


def _preview(of: DatasetPreview) -> object:
    from rich.console import Group
    from rich.text import Text

    parts: list[Text] = []
    for row in of.data:
        parts += [Text(plain(_head(row)), style="dim"), _tokens(row), Text()]
    parts.append(
        Text(f"Brackets or colour: what {of.model.slug} learns to say; {of.seq_len} tokens a row.")
    )
    return Group(*parts)


def _head(row: PreviewRow) -> str:
    cut = f", {row.truncated_tokens} cut off" if row.truncated_tokens else ""
    which = f" {row.answer}" if row.answer else ""
    problem = f", NOT LEARNT FROM: {row.problem}" if row.problem else ""
    counts = f"{row.token_count} tokens, {row.trained_count} learnt"
    return f"line {row.line}{which}: {counts}{cut}{problem}"


def _tokens(row: PreviewRow) -> "Text":
    """Brackets as well as colour, which is gone in a pipe."""
    from rich.text import Text

    shown, learning = Text(), False
    for token in row.tokens:
        if token.trained != learning:
            shown.append("[" if token.trained else "]", style="bold green")
            learning = token.trained
        shown.append(plain(token.text), style="green" if token.trained else "")
    if learning:
        shown.append("]", style="bold green")
    return shown


def delete(context: Context, *, dataset_id: str, yes: bool) -> int:
    context.confirm(f"Delete the data set {dataset_id}?", yes=yes)
    with context.client() as client:
        context.reply(
            client.datasets.with_raw_response.delete(dataset_id=dataset_id),
            lambda gone: f"deleted {gone.id}",
        )
    return OK


def dataset_id_of(context: Context, client: "Tuneyard", said: str) -> str:
    """A data set that is named by its id, or by a file, which is uploaded unless its very bytes are
    there already. Raises CliError."""
    path = Path(said)
    if not path.exists():
        try:
            return str(UUID(said))
        except ValueError:
            raise CliError(
                f"{said}: there is no such file, and it is no id of a data set.",
                hint="name a file of JSON lines, or an id that `tuneyard datasets ls` shows",
                code="no_file",
            ) from None
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    for known in islice(client.datasets.list(limit=PAGE), SEARCHED):
        if known.sha256 == digest.hexdigest():
            context.note(f"{path.name} is there already: data set {known.id}")
            return known.id
    with progress_of(context, f"uploading {path.name}") as progress:
        made = client.datasets.create(file=path, progress=progress)
    context.note(f"{path.name} is data set {made.id}: {made.rows:,} rows, {made.kind}")
    return made.id


@contextmanager
def progress_of(context: Context, what: str) -> Iterator[Progress | None]:
    """A bar of bytes, where there is a terminal to show it."""
    if context.json or not context.world.stderr.isatty():
        yield None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=context.err, transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
