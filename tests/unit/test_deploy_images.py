"""What the images install and copy, and how they run."""

import ast
import re
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deploy/images"
DOCKERFILES = sorted(IMAGES.glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TRAINER = PROJECT["optional-dependencies"]["trainer"]
CONTAINER = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11"}
HEAVY = {"torch", "transformers", "peft", "triton", "numpy"}
OWN = {"libs", "services", "deploy"}


def pins(image: str) -> dict[str, Requirement]:
    """What is installed in a container, by name; each line is one version with its hashes."""
    text = (IMAGES / f"requirements-{image}.txt").read_text().replace("\\\n", "")
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            stated, *hashes = line.split("--hash=")
            assert hashes, line
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one.strip()) for one in hashes), line
            requirement = Requirement(stated.strip())
            assert str(requirement.specifier).startswith("=="), line
            if requirement.marker is None or requirement.marker.evaluate(CONTAINER):
                found[canonicalize_name(requirement.name)] = requirement
    return found


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ("services", PROJECT["dependencies"]),
        ("trainer", PROJECT["dependencies"] + TRAINER),
    ],
)
def test_the_pins_satisfy_the_project(image: str, wanted: list[str]) -> None:
    pinned = pins(image)
    for requirement in map(Requirement, wanted):
        version = str(pinned[canonicalize_name(requirement.name)].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement}: run `just pins`"


def test_both_images_agree_on_what_they_share_and_only_the_trainer_has_torch() -> None:
    services, trainer = pins("services"), pins("trainer")
    assert {name: str(trainer[name]) for name in services} == {
        name: str(requirement) for name, requirement in services.items()
    }
    assert trainer.keys() >= HEAVY
    assert not services.keys() & HEAVY
    assert not [name for name in services if name.startswith(("nvidia-", "cuda-"))]


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.txt")), ids=lambda path: path.name)
def test_the_pins_name_no_host(path: Path) -> None:
    assert "://" not in path.read_text()
    assert "index" not in path.read_text()


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]


def test_the_services_image_has_whatever_its_code_imports() -> None:
    sources = [
        path
        for folder in sorted(OWN)
        for path in (ROOT / folder).rglob("*.py")
        # The SDK and the command are a distribution of their own, which no service imports.
        if not any(part in path.as_posix() for part in ("services/trainer", "libs/tuneyard"))
    ]
    assert len(sources) > 100
    distributions = packages_distributions()
    pinned = pins("services")
    missing = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in sources
        for name in imported(path)
        if name in distributions
        and name not in OWN
        and not any(canonicalize_name(one) in pinned for one in distributions[name])
    }
    assert not missing


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


def let_in() -> set[str]:
    """What of the checkout a build sees: everything is ignored but these."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_nobody_in_particular_and_says_whether_it_is_well(path: Path) -> None:
    words = instructions(path)
    last = dict(words)
    uid, _, gid = last["USER"].partition(":")
    assert int(uid) >= 10_000
    assert int(gid) >= 10_000
    assert "deploy.health" in last["HEALTHCHECK"]
    assert [word for word, _ in words].index("USER") > max(
        index for index, (word, _) in enumerate(words) if word in ("RUN", "COPY")
    )


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_copies_is_in_the_checkout_and_not_ignored(path: Path) -> None:
    copies = [rest for word, rest in instructions(path) if word == "COPY"]
    sources = [source for rest in copies if "--from=" not in rest for source in rest.split()[:-1]]
    assert set(sources) > OWN
    for source in sources:
        assert (ROOT / source).exists(), source
        assert {source, source.partition("/")[0]} & let_in(), source


def test_the_linter_finds_nothing_in_the_dockerfiles() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run(
        [hadolint, *DOCKERFILES], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "")
