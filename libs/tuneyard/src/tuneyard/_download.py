"""Fetches files from links: resumed where they broke off, and taken only if their SHA-256 fits."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock

from tuneyard._call import USER_AGENT, Options, refusal
from tuneyard._effects import Close, Do, Flow, Open, Opened, Read, Request, Sleep, Together
from tuneyard._form import Progress
from tuneyard._retry import backoff
from tuneyard.errors import APIConnectionError, APIError, DownloadError

AT_ONCE = 4  # files; more would share the same line
BLOCK = 1 << 20  # bytes of a file that are hashed at once
PART = ".part"
EXPIRED = (401, 403, 404, 410)  # how object stores refuse a link that is too old
WRONG_RANGE = 416


@dataclass(frozen=True)
class Link:
    """``url`` needs no key, and is never given one."""

    name: str
    url: str
    size_bytes: int
    sha256: str


Links = list[Link]
Paths = list[Path]


class Renewal:
    """The links of one set of files; ``ask`` gives new ones."""

    def __init__(self, ask: Callable[[], Flow[Links]], first: Sequence[Link]) -> None:
        self._ask = ask
        self._newest = {link.name: link for link in first}

    def renewed(self, old: Link) -> Flow[Link]:
        """Raises DownloadError if the file is not there any more, or another one."""
        if self._newest[old.name].url == old.url:
            self._newest |= {link.name: link for link in (yield from self._ask())}
        new = self._newest[old.name]
        if new.url == old.url or new.sha256 != old.sha256:
            raise DownloadError(f"{old.name}: its link has expired, and there is no other")
        return new


class Tally:
    """Adds up what several files have, for one report of progress."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done: dict[str, int] = {}
        self._lock = Lock()

    def tell(self, name: str, done: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done[name] = done
                self._progress(sum(self._done.values()), self._total)


class Part:
    """The beginning of a file, on disk under another name until it is whole."""

    def __init__(self, target: Path, link: Link) -> None:
        self.path = target.with_name(target.name + PART)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._target, self._link = target, link
        self._file = self.path.open("a+b")
        self._file.seek(0)
        self._digest = hashlib.sha256()
        self.done = 0
        while block := self._file.read(BLOCK):
            self._digest.update(block)
            self.done += len(block)
        if self.done > link.size_bytes:
            self.restart()

    def write(self, chunk: bytes) -> None:
        """Raises DownloadError for more than there should be."""
        if self.done + len(chunk) > self._link.size_bytes:
            raise DownloadError(
                f"{self._link.name}: more came than its {self._link.size_bytes} bytes"
            )
        self._file.write(chunk)
        self._digest.update(chunk)
        self.done += len(chunk)

    def restart(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._digest = hashlib.sha256()
        self.done = 0

    def close(self) -> None:
        self._file.close()

    @property
    def whole(self) -> bool:
        return self.done == self._link.size_bytes

    def take(self) -> bool:
        """Give it its name, if its SHA-256 fits."""
        if self._digest.hexdigest() != self._link.sha256:
            return False
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.path.replace(self._target)
        return True


def fetch_all(
    options: Options,
    ask: Callable[[], Flow[Links]],
    folder: Path,
    *,
    progress: Progress | None,
    at_once: int,
    wanted: Callable[[Link], bool] = lambda _: True,
) -> Flow[Paths]:
    """The paths of the files, in the order of their links. What is there already and right is
    left alone. Raises DownloadError, APIError, APIConnectionError, OSError."""
    links = [link for link in (yield from ask()) if wanted(link)]
    if not links:
        raise DownloadError("there is no such file to download")
    renewal, tally = Renewal(ask, links), Tally(sum(link.size_bytes for link in links), progress)
    placed = [(link, place(folder, link.name)) for link in links]
    flows = [_fetch(options, link, renewal, target, tally) for link, target in placed]
    paths: Paths = yield Together(flows, at_once)
    return paths


def place(folder: Path, name: str) -> Path:
    """Where a file of this name goes; never outside of the folder. Raises DownloadError."""
    path = PurePosixPath(name)
    bad = not path.parts or path.is_absolute() or ".." in path.parts
    if bad or any(char in name for char in "\\:\0"):
        raise DownloadError(f"{name!r} is no name that a file here may have")
    return folder.joinpath(*path.parts)


def _fetch(
    options: Options, link: Link, renewal: Renewal, target: Path, tally: Tally
) -> Flow[Path]:
    if (yield Do(partial(_is_there, target, link))):
        tally.tell(link.name, link.size_bytes)
        return target
    part: Part = yield Do(partial(Part, target, link))
    try:
        yield from _receive_all(options, link, renewal, part, tally)
    finally:
        part.close()
    return target


def _is_there(target: Path, link: Link) -> bool:
    if not target.is_file() or target.stat().st_size != link.size_bytes:
        return False
    digest = hashlib.sha256()
    with target.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == link.sha256


def _receive_all(
    options: Options, link: Link, renewal: Renewal, part: Part, tally: Tally
) -> Flow[None]:
    """Ask until it is whole and right; failures count until it has come farther than ever."""
    failures, corrupt, farthest = 0, 0, part.done
    while True:
        failed: Exception | None = None
        if not part.whole:
            try:
                yield from _receive(options, link, part, tally)
            except (APIConnectionError, APIError) as error:
                failed = error
        if part.whole:
            if (yield Do(part.take)):
                return
            failed = DownloadError(f"{link.name} is not what its SHA-256 says, twice")
            corrupt += 1
            yield Do(part.restart)
        failures = 1 if part.done > farthest else failures + 1
        farthest = max(farthest, part.done)
        if failures > options.max_retries + 1 or corrupt > 1:
            raise failed or DownloadError(f"{link.name}: the connection ends before the file")
        if isinstance(failed, APIError) and failed.status in EXPIRED:
            link = yield from renewal.renewed(link)
        elif isinstance(failed, APIError) and failed.status < 500 and failed.status != 429:
            raise failed
        else:
            yield Sleep(backoff(failures, options.seams.random))


def _receive(options: Options, link: Link, part: Part, tally: Tally) -> Flow[None]:
    """One request for what is missing."""
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if part.done:
        headers["Range"] = f"bytes={part.done}-"
    opened: Opened = yield Open(Request("GET", link.url, headers, timeout=options.timeout))
    continues = _continues(opened, part)
    if opened.status == WRONG_RANGE or (opened.status == 206 and not continues):
        # It says something else than what is here: from the beginning, then.
        yield Close(opened)
        yield Do(part.restart)
        return
    if opened.status not in (200, 206):
        content = yield Read(opened)
        yield Close(opened)
        raise refusal(options, opened.status, opened.headers, content)
    if part.done and not continues:
        yield Do(part.restart)
    tally.tell(link.name, part.done)
    while chunk := (yield Read(opened)):
        yield Do(partial(part.write, chunk))
        tally.tell(link.name, part.done)
    yield Close(opened)


def _continues(opened: Opened, part: Part) -> bool:
    """Also one with the status 200, as `rclone serve s3` has it."""
    return opened.headers.get("content-range", "").startswith(f"bytes {part.done}-")
