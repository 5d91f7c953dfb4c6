"""A multipart form (RFC 7578) with one file, sent as a stream of known length."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from tuneyard.errors import TuneyardError

File = str | os.PathLike[str] | bytes | BinaryIO
Progress = Callable[[int, int], None]
"""Called with the bytes that are done, and all that there are."""

CHUNK = 1 << 18  # large enough that Python costs nothing beside the network
NAMELESS = "data.jsonl"


@dataclass(frozen=True)
class Source:
    """Where the file's bytes come from, as often as a repetition needs them."""

    name: str
    size: int
    start: Callable[[], tuple[BinaryIO, bool]]
    """The file at its beginning, and whether it is ours to close."""


def source_of(file: File) -> Source:
    """Raises TuneyardError for a file that can't be read twice, OSError for a missing one."""
    if isinstance(file, bytes):
        content = file
        return Source(NAMELESS, len(content), lambda: (BytesIO(content), True))
    if isinstance(file, str | os.PathLike):
        path = Path(file)
        return Source(path.name, path.stat().st_size, lambda: (path.open("rb"), True))
    if not file.seekable():
        raise TuneyardError(
            "The file can't be rewound, so an upload that broke off could not be repeated;"
            " pass a path, bytes, or a file that is seekable."
        )
    opened = file
    begin = opened.tell()
    size = opened.seek(0, os.SEEK_END) - begin
    opened.seek(begin)

    def start() -> tuple[BinaryIO, bool]:
        opened.seek(begin)
        return opened, False

    named = getattr(file, "name", None)
    return Source(Path(named).name if isinstance(named, str) else NAMELESS, size, start)


class Form:
    """The body: text fields first, so that a server can refuse them before the file comes."""

    def __init__(
        self,
        fields: Sequence[tuple[str, str]],
        file_field: str,
        source: Source,
        *,
        filename: str | None = None,
        progress: Progress | None = None,
        boundary: str | None = None,
    ) -> None:
        self.boundary = boundary or secrets.token_hex(16)
        self._source = source
        self._progress = progress
        texts = "".join(
            f"--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'
            for name, value in fields
        )
        self._head = (
            f"{texts}--{self.boundary}\r\n"
            f'Content-Disposition: form-data; name="{_quoted(file_field)}";'
            f' filename="{_quoted(filename or source.name)}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{self.boundary}--\r\n".encode()

    @property
    def headers(self) -> dict[str, str]:
        return {
            "Content-Type": f"multipart/form-data; boundary={self.boundary}",
            "Content-Length": str(len(self._head) + self._source.size + len(self._tail)),
        }

    def chunks(self) -> Iterator[bytes]:
        """The whole body, from its beginning each time; progress counts the file's bytes."""
        yield self._head
        file, ours = self._source.start()
        try:
            done = 0
            self._tell(done)
            # A file that grows meanwhile is sent as long as it was, as its length was announced.
            while chunk := file.read(min(CHUNK, self._source.size - done)):
                yield chunk
                done += len(chunk)
                self._tell(done)
        finally:
            if ours:
                file.close()
        if done < self._source.size:
            raise TuneyardError(f"{self._source.name} has become shorter while it was sent.")
        yield self._tail

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self._source.size)


def _quoted(text: str) -> str:
    """As the HTML standard has names in a multipart form."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
