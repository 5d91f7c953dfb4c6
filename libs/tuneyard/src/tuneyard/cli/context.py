"""What a command knows of where it runs: the terminal, the environment, the clock, the platform."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import msgspec

from tuneyard._client import KEY_VARIABLE, URL_VARIABLE, Tuneyard
from tuneyard._seams import Seams
from tuneyard.cli import config
from tuneyard.cli.exits import NOT_AUTHENTICATED, REFUSED, CliError
from tuneyard.cli.text import field_of, plain

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

    from tuneyard import RawResponse
    from tuneyard.types import Page

T = TypeVar("T")

LOCAL_URL = "http://127.0.0.1:8080"
# Columns where nobody has a terminal: nothing is cut off or wrapped in a pipe.
UNBOUNDED = 10_000


@dataclass(frozen=True)
class World:
    environ: Mapping[str, str]
    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]


@dataclass(frozen=True)
class Access:
    """Where the platform is, what it is asked with, and where each of the two was said."""

    base_url: str
    api_key: str = field(repr=False)
    url_from: str
    key_from: str


class Context:
    """``api_key`` and ``base_url`` are the command line's. What was asked for goes to ``out``, all
    else to ``err``. ``field``: only this of an answer in JSON."""

    def __init__(
        self,
        world: World,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        json: bool = False,
        field: str | None = None,
    ) -> None:
        self.world = world
        self.json = json or field is not None
        self._field = field
        self._api_key = api_key
        self._base_url = base_url

    @cached_property
    def out(self) -> "Console":
        return _console(self.world.stdout, self.world.environ)

    @cached_property
    def err(self) -> "Console":
        return _console(self.world.stderr, self.world.environ)

    @property
    def config_path(self) -> Path:
        return config.path_of(self.world.environ)

    @property
    def asks(self) -> bool:
        """Whether there is somebody to ask."""
        return self.world.stdin.isatty() and self.world.stderr.isatty() and not self.json

    def ask(self, question: str) -> str:
        self.world.stderr.write(question)
        self.world.stderr.flush()
        return self.world.stdin.readline().strip()

    def confirm(self, question: str, *, yes: bool) -> None:
        """Scripts are not asked. Raises CliError when the answer is no."""
        if not yes and self.asks and self.ask(f"{question} [y/N] ").lower() not in ("y", "yes"):
            raise CliError("Nothing was done.", hint="answer y", code="declined", status=REFUSED)

    def note(self, text: str) -> None:
        """Something beside the answer, for people."""
        if not self.json:
            self.world.stderr.write(plain(text) + "\n")

    def write(self, content: bytes) -> None:
        """One line of JSON, or what was asked for of it."""
        text = content.decode() if self._field is None else field_of(content, self._field)
        self.world.stdout.write(text + "\n")
        self.world.stdout.flush()

    def answer(self, value: Any, render: Callable[[Any], Any]) -> None:
        """A value, as JSON or as people read it."""
        if self.json:
            self.write(msgspec.json.encode(value))
        else:
            self.show(render(value))

    def show(self, what: Any) -> None:
        if isinstance(what, str):
            self.world.stdout.write(plain(what) + "\n")
        elif self.world.stdout.isatty():
            self.out.print(what)
        else:
            # A table's cells are filled up with spaces, which are of no use in a pipe.
            with self.out.capture() as drawn:
                self.out.print(what)
            lines = drawn.get().splitlines()
            self.world.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))

    def reply(self, raw: "RawResponse[T]", render: Callable[[T], Any]) -> None:
        """An answer of the API: as JSON exactly as it came."""
        value = raw.parse()  # also for JSON: what is no answer of the platform's is none of ours
        if self.json:
            self.write(raw.content)
        else:
            self.show(render(value))

    def page(self, raw: "RawResponse[Page[T]]", render: "Callable[[Page[T]], Any]") -> None:
        """One part of a list, and how to get the next."""
        self.reply(raw, render)
        if not self.json and (cursor := raw.parse().next_cursor):
            self.note(f"there is more: --cursor {cursor}")

    def said(self) -> Access:
        """What the command line and the environment say; what they don't is empty."""
        environ = self.world.environ
        base_url, url_from = _first(
            ("--base-url", self._base_url), (URL_VARIABLE, environ.get(URL_VARIABLE))
        )
        api_key, key_from = _first(
            ("--api-key", self._api_key), (KEY_VARIABLE, environ.get(KEY_VARIABLE))
        )
        return Access(base_url, api_key, url_from, key_from)

    def access(self) -> Access:
        """With the config's, where nothing else is said. Raises CliError."""
        said, saved, in_config = self.said(), config.load(self.config_path), str(self.config_path)
        base_url, url_from = _first(
            (said.url_from, said.base_url), (in_config, saved.base_url if saved else None)
        )
        api_key, key_from = said.api_key, said.key_from
        if not api_key and saved is not None:
            if base_url.rstrip("/") != saved.base_url:
                raise CliError(
                    f"The key in {in_config} is for {saved.base_url}; {base_url} doesn't get it.",
                    hint=f"tuneyard login --base-url {base_url}",
                    code="no_key",
                    status=NOT_AUTHENTICATED,
                )
            api_key, key_from = saved.api_key, in_config
        if not api_key or not base_url:
            missing = "key" if base_url else "address"
            raise CliError(
                f"There is no {missing} of a platform.",
                hint=f"tuneyard login, or set {KEY_VARIABLE} and {URL_VARIABLE};"
                " after `just up`: tuneyard login --local",
                code=f"no_{missing}",
                status=NOT_AUTHENTICATED,
            )
        return Access(base_url, api_key, url_from, key_from)

    def client(
        self,
        *,
        http_client: "httpx.Client | None" = None,
        sleep: Callable[[float], None] | None = None,
    ) -> Tuneyard:
        access = self.access()
        if access.key_from == str(self.config_path) and config.is_open(self.config_path):
            self.note(
                f"warning: others may read {self.config_path}; chmod 600 it, and make a new key"
                " if one of them did"
            )
        return self.client_of(access, http_client=http_client, sleep=sleep)

    def client_of(
        self,
        access: Access,
        *,
        http_client: "httpx.Client | None" = None,
        sleep: Callable[[float], None] | None = None,
    ) -> Tuneyard:
        world = self.world
        seams = Seams(sleep=sleep or world.sleep, now=world.now, monotonic=world.monotonic)
        return Tuneyard(
            api_key=access.api_key,
            base_url=access.base_url,
            http_client=http_client,
            seams=seams,
        )


def _first(*found: tuple[str, str | None]) -> tuple[str, str]:
    """What is said first, and where."""
    return next(((value, where) for where, value in found if value), ("", ""))


def _console(file: TextIO, environ: Mapping[str, str]) -> "Console":
    from rich.console import Console

    terminal = file.isatty()
    return Console(
        file=file,
        force_terminal=terminal,
        width=None if terminal else UNBOUNDED,
        _environ=environ,
        legacy_windows=None if sys.platform == "win32" else False,
    )
