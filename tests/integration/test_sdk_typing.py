"""What a type checker makes of the SDK: one method, four results, and no wrong keyword."""

import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path

ROOT = Path(__file__).parents[2]

RIGHT = """
from collections.abc import AsyncGenerator, Generator
from typing import assert_type

from tuneyard import AsyncPages, AsyncTuneyard, Pages, RawResponse, Tuneyard
from tuneyard.types import FinetuneRecommendation, Job, Page, StreamEvent, TrainRecommendation

client, other = Tuneyard(), AsyncTuneyard()

assert_type(client.jobs.get(job_id="j"), Job)
assert_type(client.jobs.with_raw_response.get(job_id="j"), RawResponse[Job])
assert_type(client.jobs.list(limit=3), Pages[Job])
assert_type(client.jobs.with_raw_response.list(), RawResponse[Page[Job]])
assert_type(client.jobs.wait(job_id="j", timeout=5), Job)
assert_type(client.jobs.stream(job_id="j"), Generator[StreamEvent, None, None])
assert_type(client.training.recommend(), TrainRecommendation | FinetuneRecommendation)
client.jobs.create(type="finetune", hyperparams={"steps": 3})


async def awaited() -> None:
    assert_type(await other.jobs.get(job_id="j"), Job)
    assert_type(await other.jobs.with_raw_response.get(job_id="j"), RawResponse[Job])
    assert_type(other.jobs.list(limit=3), AsyncPages[Job])
    assert_type(other.jobs.stream(job_id="j"), AsyncGenerator[StreamEvent, None])
"""
WRONG = {
    'client.jobs.get(id="j")': "call-arg",
    'client.jobs.get("j")': "call-arg",
    "client.jobs.get(job_id=1)": "arg-type",
    'client.jobs.create(type="distil")': "arg-type",
    'client.jobs.get(job_id="j").states': "attr-defined",
}


async def test_a_type_checker_knows_every_result_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    lines = RIGHT.count("\n")
    code = tmp_path / "use.py"
    code.write_text(RIGHT + "\n".join([*WRONG, ""]))
    config = ROOT / "libs" / "tuneyard" / "pyproject.toml"
    checker = (sys.executable, "-m", "mypy", "--config-file", config, "--python-version", "3.11")
    process = await create_subprocess_exec(*checker, code, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    out, _ = await process.communicate()

    told = [line for line in out.decode().splitlines() if "error:" in line]
    assert len(told) == len(WRONG), out.decode()
    for number, (line, kind) in enumerate(WRONG.items(), lines + 1):
        assert any(f"use.py:{number}:" in each and f"[{kind}]" in each for each in told), line
