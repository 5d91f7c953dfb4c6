"""The documents' command lines in a real shell, with curl, or libcurl where there is no curl."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from deploy.local.services import ROOT

HOST, KEY = "https://api.tuneyard.example", "tuneyard_your-key"
"""What a command line says for the platform's address and for the caller's key."""

CURL_SECONDS = 300.0
# Where the answer goes is told to curl beside its command line, which stays as it was written.
SETTINGS = """\
silent
show-error
noproxy = "*"
dump-header = "headers"
output = "body"
"""


class Terminal:
    """A shell in a folder of its own, for one key. ``folder`` holds what command lines upload.

    ``bare``: as on a machine without curl, which a fresh one may be."""

    def __init__(self, folder: Path, base_url: str, api_key: str, *, bare: bool = False) -> None:
        self.folder = folder
        self._words = {HOST: base_url, KEY: api_key}
        self._env = os.environ | {"CURL_HOME": str(folder)}
        (folder / ".curlrc").write_text(SETTINGS)
        if bare or shutil.which("curl") is None:
            command = folder / "bin" / "curl"
            command.parent.mkdir()
            command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.conformance.curl "$@"\n')
            command.chmod(0o755)
            self._env["PATH"] = f"{command.parent}:{os.environ['PATH']}"
            self._env["PYTHONPATH"] = str(ROOT)

    def run(self, command: str, words: Mapping[str, str] | None = None) -> httpx.Response:
        """The answer to a curl line, after ``words`` of it were replaced by this platform's."""
        for word, meant in (self._words | dict(words or {})).items():
            command = command.replace(word, meant)
        for name in ("headers", "body"):
            (self.folder / name).unlink(missing_ok=True)
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=CURL_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return answer_in(self.folder)


def answer_in(folder: Path) -> httpx.Response:
    """The last answer that curl wrote; one to ``Expect: 100-continue`` may stand before it."""
    heads = (folder / "headers").read_bytes().decode("latin-1").strip().split("\r\n\r\n")
    status_line, *lines = heads[-1].split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    body = folder / "body"
    return httpx.Response(
        int(status_line.split()[1]),
        headers=headers,
        content=body.read_bytes() if body.exists() else b"",
    )
