"""Runs a page of the guide as a reader would: block after block, in one shell, in one folder."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN = ("sh", "python")
SHOWN = ("json", "text")
SECONDS = 300.0  # for a page, on a busy machine
FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*(.*)$")
SAVED = re.compile(r"# (\w+\.py)\n")
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
NUMBER = r"\d[\d,.:]*"
PRICE = r"\d+(?:\.\d\d USD| cents)"
# What a page shows, by what may stand there instead. Prices are a promise, and stand as they are.
LOOSE = re.compile(
    rf"(?P<uuid>{UUID})|(?P<price>{PRICE})|(?P<number>{NUMBER})|(?P<any>…)|(?P<gap>[ \t]+)"
)
INSTEAD = {"uuid": UUID, "number": NUMBER, "any": ".*?", "gap": "[ \t]+"}


class PageError(AssertionError):
    """What is wrong with a page, and in which line."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    where: str

    @property
    def file(self) -> str | None:
        """The name under which the page has the block kept, instead of run at once."""
        named = SAVED.match(self.text) if self.language == "python" else None
        return named[1] if named else None


def blocks_of(page: Path) -> list[Block]:
    """Raises PageError for a block of which nobody knows how it is run or compared."""
    found: list[Block] = []
    fence, language, begin, lines = "", "", 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        mark = FENCE.match(line)
        if not fence and mark:
            fence, language, begin, lines = mark[1], mark[2].strip(), number, []
        elif fence and mark and mark[1].startswith(fence) and not mark[2]:
            found.append(Block(language, "\n".join(lines) + "\n", f"{page.name}:{begin}"))
            fence = ""
        elif fence:
            lines.append(line)
    if fence:
        raise PageError(f"{page.name}:{begin}: the block has no end")
    for place, block in enumerate(found):
        _check(block, found[:place], found[place + 1 :])
    return found


def _check(block: Block, before: Sequence[Block], behind: Sequence[Block]) -> None:
    if block.language not in (*RUN, *SHOWN):
        raise PageError(f"{block.where}: {block.language!r} is none of {', '.join(RUN + SHOWN)}")
    if block.language in SHOWN and not any(each.language in RUN for each in before):
        raise PageError(f"{block.where}: it shows what nothing before it says")
    kept = block.file
    if kept and not any(kept in each.text for each in behind if each.language == "sh"):
        raise PageError(f"{block.where}: {kept} is kept, and never run")


def run_page(
    blocks: Sequence[Block],
    folder: Path,
    environ: Mapping[str, str],
    *,
    wait: Callable[[subprocess.Popen[bytes]], int] = lambda process: process.wait(SECONDS),
) -> None:
    """Raises PageError for a block that fails, or says something else than the page shows.
    ``wait`` gives the shell's exit status, and raises TimeoutExpired when it has no more time."""
    notes = folder / ".blocks"
    notes.mkdir()
    script = notes / "page.sh"
    script.write_text("set -e\n" + "".join(_step(n, each, notes) for n, each in enumerate(blocks)))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "--norc", "--noprofile", str(script)],
        cwd=folder,
        # Unbuffered, answers and notes come in the order in which a terminal shows them.
        env={"PATH": path, "PYTHONUNBUFFERED": "1", **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = wait(process)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with suppress(ProcessLookupError):  # servers that a page has begun and not ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _judge(blocks, notes, code)


def _step(number: int, block: Block, notes: Path) -> str:
    """What the shell does for a block: nothing in place of an output, which is compared later."""
    if block.language in SHOWN:
        return ""
    output = f"exec >{shlex.quote(str(notes / f'{number}.out'))} 2>&1\n"
    if block.language == "sh":
        return output + block.text
    kept = notes / f"{number}.py"
    kept.write_text(block.text)
    if block.file:
        return output + f"cp {shlex.quote(str(kept))} {shlex.quote(block.file)}\n"
    return output + f"python {shlex.quote(str(kept))}\n"


def _judge(blocks: Sequence[Block], notes: Path, code: int | None) -> None:
    said = {n: f for n in range(len(blocks)) if (f := notes / f"{n}.out").exists()}
    if code != 0:
        last = max(said, default=0)
        end = "did not end in time" if code is None else f"ended with {code}"
        output = said[last].read_text() if said else ""
        raise PageError(f"{blocks[last].where} {end}:\n{blocks[last].text}\n{output}")
    latest = ""
    for number, block in enumerate(blocks):
        if block.language in RUN:
            latest = said[number].read_text()
        elif not (fits_json if block.language == "json" else fits_text)(block.text, latest):
            raise PageError(f"{block.where} shows\n{block.text}\nbut what came is\n{latest}")


def fits_text(shown: str, came: str) -> bool:
    """Whether it differs in nothing but numbers, ids, and how far columns are apart. A line ``…``
    stands for any lines, ``…`` in a line for anything. Prices are to be equal, and so is a number
    that is all of a line."""
    lines = shown.rstrip("\n").split("\n")
    wanted = "".join(
        r"(?:.*\n)*?" if each.strip() == "…" else _loose(each) + r"\n" for each in lines
    )
    ends = "".join(f"{line.rstrip()}\n" for line in came.splitlines())
    return re.fullmatch(wanted, ends) is not None


def _loose(text: str) -> str:
    if text.isdecimal():
        return text
    made, end = "", 0
    for found in LOOSE.finditer(text):
        kind = found.lastgroup or ""
        made += re.escape(text[end : found.start()]) + INSTEAD.get(kind, re.escape(found[0]))
        end = found.end()
    return made + re.escape(text[end:])


def fits_json(shown: str, came: str) -> bool:
    """Whether it has at least these names, with the same types, texts and cents. Of a list, its
    first is compared with the one that is shown."""
    try:
        return _has(json.loads(came), json.loads(shown))
    except json.JSONDecodeError:
        return False


def _has(value: Any, shown: Any, name: str = "") -> bool:
    match shown:
        case dict():
            return isinstance(value, dict) and all(
                each in value and _has(value[each], of, each) for each, of in shown.items()
            )
        case list():
            if not isinstance(value, list) or bool(value) != bool(shown):
                return False
            return all(_has(value[0], of) for of in shown[:1])
        case str():
            return (
                isinstance(value, str) and re.fullmatch(_loose(shown), value, re.DOTALL) is not None
            )
        case bool() | None:
            return value is shown
        case _ if name.endswith("_cents"):
            return bool(value == shown)
    return type(value) is type(shown)
