"""A preview of rows for whoever is about to train on them, made beside a running job.

This process downloads what is needed and no more; one that is forked for the answer tokenises, so
that neither heartbeats nor training wait for it.
"""

import asyncio
import multiprocessing
from multiprocessing.connection import wait
from pathlib import Path

import aiohttp
import msgspec

from libs.contracts.trainer_rpc import GetPreview, NextRows, Preview, PreviewRefused
from services.trainer.base_model import ModelUnavailable, resolve_tokenizer
from services.trainer.preview_rows import Line, Shown, show
from services.trainer.transfer import TransferFailed

AT_ONCE = 1  # the others wait; a row is tokenised in milliseconds
ENOUGH_BYTES = 1024 * 1024  # of rows in an answer; one longer than that comes alone
CHUNK = 64 * 1024  # of a download; most previews need no second one
GOOD = (200, 206)

decode_shown = msgspec.json.Decoder(Shown).decode


class Previewer:
    """``ready`` is set when the fork server has its imports: from then on a fork takes no time."""

    def __init__(
        self, http: aiohttp.ClientSession, *, models_dir: Path, cache: Path, ready: asyncio.Event
    ) -> None:
        self._http = http
        self._models_dir = models_dir
        self._cache = cache
        self._ready = ready
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._context = multiprocessing.get_context("forkserver")

    async def answer(self, request: GetPreview) -> Preview | PreviewRefused:
        """Raises TransferFailed, aiohttp.ClientError or OSError."""
        try:
            model = await resolve_tokenizer(
                request.source,
                request.files,
                http=self._http,
                models_dir=self._models_dir,
                cache=self._cache,
            )
        except ModelUnavailable as error:
            return PreviewRefused(reason=str(error))
        lines, ended = await read_lines(self._http, request)
        if not lines:
            return Preview(rows=(), following=None)
        await self._ready.wait()
        async with self._turn:
            shown = await self._show(model, lines, request)
        if shown.refused is not None:
            return PreviewRefused(reason=shown.refused)
        return Preview(rows=shown.rows, following=following(lines, shown.lines, ended=ended))

    async def _show(self, model: Path, lines: tuple[Line, ...], request: GetPreview) -> Shown:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=show, args=(sender, model, lines, request.kind, request.seq_len), daemon=True
        )
        with receiver:
            # Not in a thread: whoever starts a process there may reap one of training's.
            process.start()
            sender.close()
            try:
                # It ends by itself, and with it the pipe: a thread that waits here is never stuck.
                return decode_shown(await asyncio.to_thread(receiver.recv_bytes))
            except EOFError as error:
                raise TransferFailed("the preview's process died; the log has its words") from error
            finally:
                await asyncio.to_thread(wait, [process.sentinel])
                process.join()


def following(lines: tuple[Line, ...], done: int, *, ended: bool) -> NextRows | None:
    """Where to go on after the first ``done`` lines."""
    if ended and done == len(lines):
        return None
    last = lines[done - 1]
    return NextRows(last.end, last.number + 1)


async def read_lines(
    http: aiohttp.ClientSession, request: GetPreview
) -> tuple[tuple[Line, ...], bool]:
    """The lines that were asked for, as far as they fit into an answer, and whether nothing but
    blank lines comes after them. Reads not much further than their end."""
    reader = _Lines(request.offset, request.line)
    headers = {"Range": f"bytes={request.offset}-"}
    async with http.get(request.dataset_url, headers=headers) as response:
        if response.status == 416:  # the data set ends here
            return (), True
        if response.status not in GOOD:
            raise TransferFailed(f"the data set: the object store answered {response.status}")
        # Some servers answer 200 to a range, and all that give one say which it is.
        given = response.headers.get("Content-Range", "")
        if request.offset and not given.startswith(f"bytes {request.offset}-"):
            raise TransferFailed("the object store gives no parts of an object")
        # One more than was asked for shows that there is more.
        async for piece in response.content.iter_chunked(CHUNK):
            reader.feed(piece)
            if len(reader.lines) > request.limit or reader.size > ENOUGH_BYTES:
                break
        else:
            reader.finish()
    lines = reader.lines[: request.limit]
    ended = reader.finished and len(lines) == len(reader.lines)
    return _within(lines), ended and len(_within(lines)) == len(lines)


def _within(lines: list[Line]) -> tuple[Line, ...]:
    """Those that fit into an answer; the first in any case."""
    size = 0
    for count, line in enumerate(lines):
        size += len(line.text)
        if count and size > ENOUGH_BYTES:
            return tuple(lines[:count])
    return tuple(lines)


class _Lines:
    """Lines from bytes that are cut anywhere; blank ones count, and are passed over."""

    def __init__(self, offset: int, number: int) -> None:
        self.lines: list[Line] = []
        self.size = 0
        self.finished = False
        self._offset = offset
        self._number = number
        self._begun: list[bytes] = []

    def feed(self, piece: bytes) -> None:
        first, *rest = piece.split(b"\n")
        self._begun.append(first)
        for begun in rest:
            self._end(ending=1)
            self._begun.append(begun)

    def finish(self) -> None:
        self._end(ending=0)
        self.finished = True

    def _end(self, *, ending: int) -> None:
        text = b"".join(self._begun)
        self._begun.clear()
        self._offset += len(text) + ending
        if text.strip():
            self.lines.append(Line(self._number, text, self._offset))
            self.size += len(text)
        self._number += 1
