"""Growing and contracting a toy, against what they promise: ``just bench-training [--quick]``.

The toy is a Llama of 8 layers that the project makes of its own prose. Perplexities are on prose
that it has not seen. What is measured is the product's own functions; rival scores are in `rivals`.
"""

import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from uuid import uuid4

import msgspec
import numpy as np
import torch
from cyclopts import App, Parameter
from rich.console import Console
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from libs.contracts.training import ContractParams, TrainParams, TrainSpec
from services.trainer import contract, export
from services.trainer.batches import mean_loss
from services.trainer.depth import Tower, blocks_of, growth_places, keep
from services.trainer.documents import Document
from services.trainer.grow import Growing, insert
from services.trainer.journal import Journal
from services.trainer.loading import load_base
from services.trainer.narrowing import activity, narrowed, narrower, strongest
from services.trainer.run import Run
from services.trainer.steps import Learner
from services.trainer.tiny_llama import Recipe, build, texts, whole
from services.trainer.widening import Widening
from services.trainer.width import mlps_of, say_width
from tests.bench.figures import Figure, table
from tests.bench.rivals.pruning import magnitude_scores, random_scores, taylor_scores

CPU = torch.device("cpu")


class Plan(NamedTuple):
    """The toy, and the texts: so many rows of so many tokens to calibrate on, and so many documents
    to measure on."""

    recipe: Recipe
    rows: int
    length: int
    held_out: int


# Narrow, so that its neurons have something to do: of a toy twice as wide, half of them are idle.
TOY = Recipe(hidden=96, layers=8, heads=4, key_heads=2, steps=400, batch_tokens=1536)
FULL = Plan(TOY, rows=64, length=256, held_out=200)
QUICK = Plan(msgspec.structs.replace(TOY, steps=120), rows=24, length=128, held_out=60)

CYCLES = 4
KEPT = (0.75, 0.5, 0.25)
DROPPED_SHARE = 0.5  # of the 7 blocks that can go: 4

MOST_WIDENING = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
MOST_TIMES = 1.1  # as high a perplexity is as good, a higher one clearly worse


def as_good(ratio: float) -> bool:
    return ratio <= MOST_TIMES


def worse(ratio: float) -> bool:
    return ratio > MOST_TIMES


app = App(name="just bench-training", help=__doc__, version_flags=[])


@app.default
def main(
    *, quick: Annotated[bool, Parameter(help="A smaller toy and fewer texts.")] = False
) -> None:
    """Print every figure with its goal."""
    began, busy = time.monotonic(), os.getloadavg()[0]
    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = Path(tempfile.mkdtemp(prefix="tuneyard-bench-"))
    try:
        plan = QUICK if quick else FULL
        print("making the toy", file=sys.stderr, flush=True)
        build(folder / "model", plan.recipe)
        figures = measure(folder, plan)
    finally:
        shutil.rmtree(folder)
    Console(width=120).print(table(figures))
    print(
        f"\n{os.cpu_count()} cores, {busy:.1f} processes waiting for them before the run; "
        f"{time.monotonic() - began:.0f} s"
    )


def measure(folder: Path, plan: Plan) -> list[Figure]:
    """All figures of the toy in ``folder/model``."""
    bench = Bench(folder, plan)
    figures = growing(bench)
    for part in (width, depth, calibration):
        print(f"measuring {part.__name__}", file=sys.stderr, flush=True)
        figures += part(bench)
    return figures


class Bench:
    """The toy as a contraction has it, its texts, and its perplexity on those held out."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.path = folder / "model"
        spec = TrainSpec(
            job_id=uuid4(),
            job_type="contract",
            model_path=str(self.path),
            dataset_path=None,
            out_dir=str(folder / "out"),
            contract_params=ContractParams(
                contraction_ratio=DROPPED_SHARE,
                calibration_rows=plan.rows,
                seq_len=plan.length,
            ),
            threads=torch.get_num_threads(),
        )
        journal = Journal(folder / "out", lambda: datetime.now(UTC), None)
        self.model, run = contract.prepare(spec, journal)
        tokenizer = AutoTokenizer.from_pretrained(self.path).backend_tokenizer
        count = plan.recipe.documents
        prose = texts(msgspec.structs.replace(plan.recipe, documents=count + plan.held_out))
        encoded = [whole(encoding.ids[: plan.length]) for encoding in tokenizer.encode_batch(prose)]
        self.held_out, read = encoded[count:], encoded[:count]
        self.own = contract.choose_texts(run, self.model, lambda: False)
        self.real = self.own._replace(split=self.own.split._replace(train=self.as_many_of(read)))
        noise = np.random.default_rng(7).integers(
            0, plan.recipe.vocabulary, (plan.rows, plan.length)
        )
        self.noise = self.own._replace(
            split=self.own.split._replace(train=[whole(row.tolist()) for row in noise])
        )
        self.unpruned = self.perplexity()

    def as_many_of(self, read: list[Document]) -> list[Document]:
        """Of what the toy has read, as many tokens as it calibrates on when it writes itself."""
        left = sum(document.size for document in self.own.split.train)
        chosen = []
        for document in read:
            if document.size <= left:
                chosen.append(document)
                left -= document.size
        return chosen

    def perplexity(self) -> float:
        """On the prose that was held out, of the model as it is now."""
        return math.exp(mean_loss(self.model, self.held_out, CPU, self.own.dtype))


def growing(bench: Bench) -> list[Figure]:
    """A toy that has grown, saved and reloaded, beside the toy; the worst of 4 cycles."""
    figures = []
    p = TrainParams(cycles=CYCLES, learning_rate=1e-3, batch_size=1)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        before = said(bench, bench.path, dtype)

        def toy(dtype: torch.dtype = dtype) -> Any:
            return load_base(bench.path, CPU, dtype)

        tower = Tower(toy(), growth_places(bench.plan.recipe.layers, p))
        changes = [after - before for after in grown(bench, tower, dtype)]
        figures.append(
            at_most(
                f"deeper by {CYCLES} blocks, {name}, largest change of a logit",
                max(change.abs().max().item() for change in changes),
                0,
            )
        )
        for shared, all_learn in (("halves", False), ("lot", True)):
            widening = Widening(toy(), CYCLES, all_learn=all_learn)
            changes = [after - before for after in grown(bench, widening, dtype)]
            most = max((change.norm() / before.norm()).item() for change in changes)
            figures.append(
                at_most(
                    f"twice as wide by {shared}, {name}, change of all logits",
                    most,
                    MOST_WIDENING[dtype],
                )
            )
    return figures


def grown(bench: Bench, growing: Growing, dtype: torch.dtype) -> Iterator[Tensor]:
    """What the model says after each growth, saved as a job saves it, and reloaded."""
    learner = Learner(growing.model, {}, torch.optim.AdamW([{"params": []}]), {})
    folder = bench.folder / "grown"
    for cycle in range(1, CYCLES + 1):
        insert(growing, learner, growing.size_after(cycle))
        with growing.as_saved():
            growing.model.save_pretrained(folder)
        yield said(bench, folder, dtype)


def said(bench: Bench, path: Path, dtype: torch.dtype) -> Tensor:
    model = export.reload(path, None, CPU, dtype)
    return export.plain_logits(model, bench.held_out[:12], CPU)


def width(bench: Bench) -> list[Figure]:
    """Perplexity with a part of the neurons, chosen in five ways by text of the toy's own."""
    mlps, learnt = mlps_of(bench.model), bench.own.split.train
    seen = [activity(bench.model, mlp, learnt, CPU, bench.own.dtype) for mlp in mlps.modules]
    scores = {
        "random": random_scores(mlps.modules, seed=3),
        "weight magnitude": magnitude_scores(mlps.modules),
        "Taylor": taylor_scores(bench.model, mlps.modules, learnt, bench.own.dtype),
        "activation": [one.score for one in seen],
    }
    figures = []
    for share in KEPT:
        kept = narrower(mlps.width, 1 - share)
        name = f"{share:.0%} of the neurons"
        for how, score in scores.items():
            pairs = zip(mlps.modules, score, strict=True)
            mlps.put([narrowed(mlp, strongest(one, kept)) for mlp, one in pairs])
            goal = ("> 1.1x", worse) if (how, share) == ("activation", 0.5) else None
            figures.append(beside(f"{name}, {how}", bench.perplexity(), bench.unpruned, goal))
        mlps.put(mlps.modules)
        refitted = refit_perplexity(bench, bench.own, kept)
        goal = ("<= 1.1x", as_good) if share == 0.5 else None
        figures.append(beside(f"{name}, activation + refit", refitted, bench.unpruned, goal))
    return figures


def refit_perplexity(bench: Bench, run: Run, width: int) -> float:
    """With so few neurons by the product's method, calibrated on the run's texts."""
    mlps = mlps_of(bench.model)
    contract.narrow_all(run, bench.model, mlps, width, lambda: False)
    perplexity = bench.perplexity()
    mlps.put(mlps.modules)
    say_width(bench.model, mlps.width)
    return perplexity


def depth(bench: Bench) -> list[Figure]:
    """Perplexity without 4 of 8 blocks, chosen in three ways by text of the toy's own."""
    blocks = blocks_of(bench.model)
    count = len(blocks.modules)
    cut = contract.plan(count, bench.own.spec.contract)
    run = bench.own._replace(steps=cut.removals)
    candidates = contract.least_influential(run, bench.model, blocks, cut.candidates)
    greedy, _ = contract.choose(run, bench.model, blocks, candidates, lambda: False)
    at_once = sorted(set(range(count)) - set(candidates[: cut.removals]))
    ways = {
        "greedily by loss": greedy,
        "at once by influence": at_once,
        "the last ones": list(range(count - cut.removals)),
    }
    found = {}
    for way, kept in ways.items():
        keep(bench.model, blocks, kept)
        found[way] = bench.perplexity()
    keep(bench.model, blocks, range(1, count))
    first = bench.perplexity()
    keep(bench.model, blocks, range(count))
    best = min(found["at once by influence"], found["the last ones"])
    figures = [
        beside(f"without {cut.removals} of {count} blocks, {way}", value, bench.unpruned)
        for way, value in found.items()
    ]
    figures[0] = msgspec.structs.replace(
        figures[0], goal="the best", met=found["greedily by loss"] < best
    )
    return [*figures, beside("without the first block alone", first, bench.unpruned)]


def calibration(bench: Bench) -> list[Figure]:
    """Perplexity with a quarter of the neurons, refitted on text of three kinds."""
    width = narrower(mlps_of(bench.model).width, 1 - KEPT[-1])
    name = f"{KEPT[-1]:.0%} of the neurons, refit on"
    real = refit_perplexity(bench, bench.real, width)
    own = refit_perplexity(bench, bench.own, width)
    noise = refit_perplexity(bench, bench.noise, width)
    return [
        beside(f"{name} real text", real, bench.unpruned),
        beside(f"{name} text of its own", own, real, ("<= 1.1x", as_good), than="real text"),
        beside(f"{name} random tokens", noise, real, ("> 1.1x", worse), than="real text"),
    ]


def at_most(name: str, value: float, most: float) -> Figure:
    """A figure with a limit, which it may reach."""
    return Figure(name=name, ours=value, unit="", goal=f"<= {most:g}", met=value <= most)


def beside(
    name: str,
    perplexity: float,
    baseline: float,
    goal: tuple[str, Callable[[float], bool]] | None = None,
    than: str = "unpruned",
) -> Figure:
    """A perplexity; its ratio says how many times as high as the baseline it is."""
    ratio = perplexity / baseline
    return Figure(
        name=name,
        ours=perplexity,
        unit="",
        baseline=baseline,
        baseline_name=than,
        ratio=ratio,
        goal=goal[0] if goal else "",
        met=goal[1](ratio) if goal else None,
    )


if __name__ == "__main__":
    app()
