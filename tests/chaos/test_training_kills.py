"""Training processes killed at random steps, twenty times for each type of job: what they come to
is what an undisturbed one comes to, bit for bit."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libs.contracts.training import TrainSpec
from tests.support.training import (
    chats,
    contract_spec,
    curve,
    grow_spec,
    result,
    spec,
    start,
    train,
    write_rows,
)
from tests.support.training_kills import finish_through_kills

KILLS = 20
MOST_STEPS = 5  # from one kill to the next

Make = Callable[[Path, Path, Path, Path | None], TrainSpec]
"""(model, data set, out_dir, resume_from) -> spec"""


def learning(of: Callable[..., TrainSpec], **params: Any) -> Make:
    return lambda model, dataset, out_dir, resume_from: of(
        model, dataset, out_dir, resume_from=resume_from, **params
    )


LEARNING: dict[str, Make] = {
    "finetune": learning(spec),
    "train, depth": learning(grow_spec),
    "train, depth, all": learning(grow_spec, trainable="all", learning_rate=3e-3),
    "train, width": learning(grow_spec, strategy="width"),
    "train, width, all": learning(grow_spec, strategy="width", trainable="all", learning_rate=3e-3),
}
CONTRACTING: dict[str, dict[str, Any]] = {
    "depth": {},
    "width": {"strategy": "width"},
    "width, data set": {"strategy": "width"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chats())


def outcome(out_dir: Path) -> tuple[Any, ...]:
    """What must not depend on how often the run was killed."""
    files = {path.name: path.read_bytes() for path in (out_dir / "model").glob("*.safetensors")}
    assert files
    said = result(out_dir)
    return (
        files,
        curve(out_dir),
        (said.ppl_baseline, said.ppl_final, said.params_after, said.growth, said.samples),
        said.tokens_processed,
    )


@pytest.mark.parametrize("kind", LEARNING)
def test_a_run_killed_at_random_steps_is_the_unbroken_one(
    kind: str, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    make = LEARNING[kind]
    assert train(make(tiny_model, dataset, tmp_path / "unbroken", None)) == 0
    meant = outcome(tmp_path / "unbroken")
    dice, kills, runs = random.Random(kind), 0, 0
    while kills < KILLS:
        out_dir = tmp_path / f"killed-{runs}"
        runs += 1
        kills += finish_through_kills(
            lambda resume_from, out_dir=out_dir: make(tiny_model, dataset, out_dir, resume_from),
            KILLS - kills,
            MOST_STEPS,
            dice,
        )
        assert outcome(out_dir) == meant
    print(f"{kind}: {kills} kills in {runs} runs")


@pytest.mark.parametrize("kind", CONTRACTING)
def test_a_contraction_killed_at_random_moments_and_begun_anew_comes_to_the_same(
    kind: str, tiny_model: Path, dataset: Path, tmp_path: Path
) -> None:
    rows = dataset if "data set" in kind else None
    job = contract_spec(tiny_model, tmp_path / "out", dataset=rows, **CONTRACTING[kind])
    began = time.monotonic()
    assert train(job) == 0
    seconds = time.monotonic() - began
    meant = outcome(tmp_path / "out")
    dice, kills = random.Random(kind), 0
    while kills < KILLS:
        process = start(job)
        time.sleep(dice.uniform(0, seconds))
        process.kill()
        process.join()
        kills += process.exitcode != 0
    assert train(job) == 0
    assert outcome(tmp_path / "out") == meant
