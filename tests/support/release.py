"""A release of the platform in a folder of its own: this one, or the tree of an older revision."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from deploy.local.program import Program
from deploy.local.services import ROOT

DESCRIBED = ROOT / "tests/upgrade/described.py"
SYNC_SECONDS = 900.0  # torch from a far registry
ASK_SECONDS = 120.0  # the first import of a fresh environment, on a busy machine


class Release(Struct, frozen=True, kw_only=True):
    """Code in ``tree``, run by ``python``."""

    name: str
    tree: Path
    python: str

    @property
    def environment(self) -> dict[str, str]:
        """With which a process imports this release's packages, wherever it was started."""
        return {"PYTHONPATH": str(self.tree), "PYTHONSAFEPATH": "1"}

    def read(self, path: str) -> str:
        return (self.tree / path).read_text()

    def has(self, path: str) -> bool:
        return (self.tree / path).exists()

    def programs(self, folder: Path, *, port: int, trainers: int) -> dict[str, Program]:
        """Everything that it runs on an installation, by name, as it itself says; NATS's
        configuration is written, and passwords that it needs are made."""
        done = subprocess.run(
            [self.python, str(DESCRIBED), str(folder), str(port), str(trainers)],
            env=os.environ | self.environment,
            capture_output=True,
            timeout=ASK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        programs = msgspec.json.decode(done.stdout, type=list[Program])
        return {
            program.name: msgspec.structs.replace(program, env=program.env | self.environment)
            for program in programs
        }


HERE = Release(name="this tree", tree=ROOT, python=sys.executable)


def taken(revision: str, parent: Path) -> Release:
    """The tree of a revision of this repository. AssertionError if git does not know it."""
    commit = _git("rev-parse", "--verify", "--short", f"{revision}^{{commit}}").decode().strip()
    tree = parent / commit
    tree.mkdir(mode=0o755)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=_git("archive", commit), check=True)
    return Release(name=commit, tree=tree, python=environment_of(tree))


def environment_of(tree: Path) -> str:
    """The Python of a tree, with what it was shipped with. Where both declare the same dependencies
    and the same date of the index, both would install the same: then it is ours."""
    if declared(tree) == declared(ROOT):
        return sys.executable
    extras = ("--no-dev", "--extra", "trainer", "--extra", "local")
    variables = {name: of for name, of in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(
        ["uv", "sync", "-q", *extras], cwd=tree, env=variables, timeout=SYNC_SECONDS, check=True
    )
    return str(tree / ".venv/bin/python")


def declared(tree: Path) -> Any:
    """What decides which packages a tree is installed with."""
    said = tomllib.loads((tree / "pyproject.toml").read_text())
    project = said["project"]
    names = ("requires-python", "dependencies", "optional-dependencies")
    return {name: project[name] for name in names} | said["tool"]["uv"]


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
