"""The built wheel, installed where there is nothing else, works and weighs little."""

import asyncio
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.test_sdk_failures import job
from tests.support.failing_http import failing_server, says
from tests.support.scripted_job import JOB_ID, ScriptedJob, story

ROOT = Path(__file__).parents[2]
UV = os.environ.get("UV", "uv")  # `uv run` says where it is
PATIENCE = 240  # seconds, for a registry that is far away
MAX_PACKAGES = 15  # fewer, the SDK among them
MAX_BYTES = 30 * 10**6

USE = """
import sys
before = set(sys.modules)
import tuneyard
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not loaded & {"httpx", "argparse", "rich", "plotext", "anyio"}, loaded
assert not [name for name in sys.modules if name.startswith("tuneyard.cli")]
client = tuneyard.Tuneyard(api_key="k", base_url=sys.argv[1])
print(client.jobs.get(job_id="j").status)
"""


async def run(*command: str | Path, cwd: Path = ROOT) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        # Nothing of this environment may help.
        env={
            name: of for name, of in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
        },
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def weight(environment: Path) -> int:
    return sum(path.stat().st_size for path in (environment / "lib").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
async def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    await run(UV, "build", "--wheel", "--quiet", "--out-dir", out, ROOT / "libs" / "tuneyard")
    (built,) = out.glob("*.whl")
    return built


async def test_the_wheel_holds_the_sdk_with_the_command_and_says_that_it_is_typed(
    wheel: Path,
) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"tuneyard/py.typed", "tuneyard/__main__.py", "tuneyard/cli/entry.py"} <= set(names)
    assert {name.partition("/")[0] for name in names} == {"tuneyard", "tuneyard-0.1.0.dist-info"}


async def test_in_an_empty_environment_it_works_and_brings_little(
    wheel: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    python = environment / "bin" / "python"
    await run(UV, "venv", "--quiet", "--python", sys.executable, environment)
    install = (UV, "pip", "install", "--quiet", "--python", python)

    await run(*install, wheel)
    installed = json.loads(
        await run(UV, "pip", "list", "--quiet", "--format", "json", "--python", python)
    )
    assert "tuneyard" in {each["name"] for each in installed}
    assert len(installed) < MAX_PACKAGES, installed
    assert weight(environment) < MAX_BYTES
    async with failing_server(lambda _: says(job("j"))) as server:
        said = await run(python, "-I", "-c", USE, server.url, cwd=tmp_path)
    assert said.strip() == "queued"

    async with failing_server(ScriptedJob(story())) as server:
        access = ("--base-url", server.url, "--api-key", "k")
        seen = await run(environment / "bin" / "tuneyard", "watch", JOB_ID, *access, cwd=tmp_path)
    assert f"job {JOB_ID} completed" in seen
