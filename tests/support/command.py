"""The command ``tuneyard`` as people run it: a process of its own, at a pipe or in a terminal."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 240.0  # for one command, on a busy machine
OURS = ("TUNEYARD_API_KEY", "TUNEYARD_BASE_URL", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
COMMAND = (sys.executable, "-m", "tuneyard")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def problem(self) -> dict[str, Any]:
        """What stands on stderr, with --json."""
        error: dict[str, Any] = json.loads(self.err)["error"]
        return error


@dataclass(frozen=True)
class Command:
    """With an empty config of its own in ``home``. Of an account, if there is one."""

    home: Path
    url: str | None = None
    key: str | None = None

    def environ(self, **more: str) -> dict[str, str]:
        clean: Mapping[str, str] = {n: of for n, of in os.environ.items() if n not in OURS}
        said = {"TUNEYARD_BASE_URL": self.url, "TUNEYARD_API_KEY": self.key}
        home = {"XDG_CONFIG_HOME": str(self.home), "TZ": "UTC", "TERM": "xterm-256color"}
        return {**clean, **home, **{n: of for n, of in said.items() if of}, **more}

    @property
    def config(self) -> Path:
        return self.home / "tuneyard" / "config.toml"

    async def __call__(
        self, *arguments: str | Path, stdin: str = "", code: int | None = 0, **environ: str
    ) -> Done:
        """``code``: what it must end with; None: anything."""
        process = await self.start(*arguments, **environ)
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        done = Done(process.returncode, out.decode(), err.decode())
        assert code in (None, done.code), f"{arguments}: {done}"
        return done

    async def start(self, *arguments: str | Path, **environ: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *map(str, arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environ(**environ),
        )
