"""A real terminal for a command: a pseudo-terminal, with pyte for its screen."""

import asyncio
import fcntl
import os
import pty
import struct
import termios
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import pyte

COLUMNS, LINES = 110, 36
SECONDS = 120.0  # until a test gives up on what it waits for


class Terminal:
    """``written`` is every byte that came, ``text`` what can be seen now."""

    def __init__(self, process: asyncio.subprocess.Process, fd: int) -> None:
        self.process = process
        self.written = b""
        self._fd = fd
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._changed, self._closed = asyncio.Event(), asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            came = os.read(self._fd, 1 << 16)
        except OSError:  # Linux says EIO when the last process has closed its side
            came = b""
        if not came:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._closed.set()
        self.written += came
        self._stream.feed(came)
        self._changed.set()

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    async def until(
        self, holds: Callable[[str], object], what: str, *, seconds: float = SECONDS
    ) -> str:
        """The screen as soon as it is so."""
        try:
            async with asyncio.timeout(seconds):
                while not holds(self.text):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{what}: never; the screen:\n{self.text}") from None
        return self.text

    async def end(self) -> int:
        """What it ended with, when all that it wrote was read."""
        async with asyncio.timeout(SECONDS):
            code = await self.process.wait()
            await self._closed.wait()  # behind what was still in the terminal's buffer
        return code

    def clears(self) -> int:
        """How often the whole screen, or all from the cursor on, was emptied, or another one taken:
        what makes a redraw flicker."""
        codes = (b"\x1b[2J", b"\x1b[3J", b"\x1b[J", b"\x1b[0J", b"\x1bc", b"\x1b[?1049h")
        return sum(self.written.count(code) for code in codes)


@asynccontextmanager
async def terminal(command: Sequence[str], environ: Mapping[str, str]) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=dict(environ),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    shown = Terminal(process, master)
    try:
        yield shown
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)
