"""The spans that the services of a stack have written, as a tree to be compared with a table."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from libs.observability.exported_spans import Line

decode_line = msgspec.json.Decoder(Line).decode

Row = tuple[str, str, str, str]
"""Service, kind, name, and the name of the parent."""


def read_spans(folder: Path) -> list[Line]:
    """Of all services; a line that is being written is left for the next time."""
    whole = (text.read_bytes().rpartition(b"\n")[0] for text in sorted(folder.glob("*.jsonl")))
    return [decode_line(line) for lines in whole for line in lines.splitlines()]


def rows_of(spans: Iterable[Line], *, outside: str) -> set[Row]:
    """Each kind of span once, however often a question or a delivery was repeated. ``outside`` is
    the id of the span that the client had; a parent that nobody has recorded is an orphan's."""
    names = {span.span_id: span.name for span in spans} | {outside: "the client"}
    return {
        (
            span.service.removeprefix("tuneyard-"),
            span.kind,
            span.name,
            names.get(span.parent_id or "", "an orphan"),
        )
        for span in spans
    }


def table(text: str) -> set[Row]:
    """``service KIND name <- parent``, a line each."""
    rows = set()
    for line in text.strip().splitlines():
        own, _, parent = line.strip().partition(" <- ")
        service, kind, name = own.split(maxsplit=2)
        rows.add((service, kind, name.strip(), parent.strip()))
    return rows
