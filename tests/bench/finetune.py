"""Fine-tuning: real tokens a second of our training loop, and the time to its first step, against
the Hugging Face Trainer and TRL's SFTTrainer.

Same base model, data, adapter and places for tokens in a step; what stands in them without being
padding is what counts. Each run is a process of its own. The model has the shape of a small Llama
and random weights, which are as fast as any.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from uuid import uuid4

import msgspec
from msgspec import Struct
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from libs.contracts.training import FinetuneParams, MetricPoint, TrainSpec
from services.trainer.journal import METRICS
from services.trainer.launch_forked import ForkServerLauncher
from tests.bench.figures import Figure, Size, absolute, faster, sooner
from tests.bench.varied_rows import write_varied_rows
from tests.support.journey import SAMPLE
from tests.support.local_stack import base_model

SEQ_LEN = 256
ROWS = 8  # of SEQ_LEN tokens in a step
RANK = 16
STEPS = 10
FEWEST_STEPS = 6
FIRST_STEP_GOAL_SECONDS = 1.0
SAVE_GOAL = 0.15  # of a plain save
TELEMETRY_GOAL_PERCENT = 1.0

SHAPE = LlamaConfig(
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
)


class Rival(Struct, frozen=True, kw_only=True):
    """A script of `tests.bench.rivals` with its options, and how many times as fast ours should be.
    ``first_step``: how soon it takes its first step is a figure, too. ``compiled``: ours is, as in
    a long job, and compiling is not in the figure."""

    name: str
    script: str
    options: tuple[str, ...]
    goal: float
    varied: bool = False
    first_step: bool = False
    compiled: bool = False

    @property
    def bf16(self) -> bool:
        return "--bf16" in self.options


RIVALS = (
    Rival(name="HF padded", script="hf_trainer", options=(), goal=2.0),
    Rival(name="HF padded, varied", script="hf_trainer", options=(), goal=2.0, varied=True),
    Rival(name="HF packed", script="hf_trainer", options=("--packed",), goal=1.1),
    Rival(
        name="HF packed, bf16",
        script="hf_trainer",
        options=("--packed", "--bf16"),
        goal=1.3,
        first_step=True,
    ),
    Rival(
        name="HF packed, bf16, ours compiled",
        script="hf_trainer",
        options=("--packed", "--bf16"),
        goal=2.0,
        compiled=True,
    ),
    Rival(
        name="TRL packed",
        script="trl_trainer",
        options=("--packed", "--checkpointing"),
        goal=2.7,
        first_step=True,
    ),
    Rival(name="TRL, no checkpointing", script="trl_trainer", options=("--packed",), goal=2.7),
    Rival(
        name="TRL, the same, bf16", script="trl_trainer", options=("--packed", "--bf16"), goal=2.7
    ),
)


class Ran(Struct, frozen=True):
    """``first_step``: seconds from the start of the process."""

    tokens_per_second: float
    first_step: float


async def bench(size: Size) -> list[Figure]:
    folder = Path(tempfile.mkdtemp(prefix="tuneyard-bench-"))
    try:
        model = await asyncio.to_thread(make_model, folder / "model")
        return await _measure(model, folder, size)
    finally:
        shutil.rmtree(folder)


async def _measure(model: Path, folder: Path, size: Size) -> list[Figure]:
    steps = max(FEWEST_STEPS, size.of(STEPS))
    varied = write_varied_rows(folder / "varied.jsonl")
    launcher = ForkServerLauncher("services.trainer.train:run", "services.trainer.preload")
    await launcher.warm_up()
    speeds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    starts: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(size.rounds):
        for rival in RIVALS:
            dataset = varied if rival.varied else SAMPLE
            job = spec(model, dataset, folder / "ours", steps)
            ours = await _ours(job, folder, rival)
            theirs = await _theirs(rival, model, dataset, folder, steps)
            speeds[rival.name].append((ours.tokens_per_second, theirs.tokens_per_second))
            if rival.first_step:
                warm = await _first_step(launcher, spec(model, dataset, folder / "warm", 1))
                starts[rival.name].append((warm, theirs.first_step))
    step_seconds = ROWS * SEQ_LEN / max(ours for pairs in speeds.values() for ours, _ in pairs)
    saving = [await _saving(folder) for _ in range(size.rounds)]
    return [
        *(
            faster(f"fine-tune, {r.name}", "tokens/s", speeds[r.name], than=r.name, at_least=r.goal)
            for r in RIVALS
        ),
        *(
            sooner(
                f"warm start to first step, {name}",
                "s",
                seconds,
                than=name,
                below=FIRST_STEP_GOAL_SECONDS,
            )
            for name, seconds in starts.items()
        ),
        sooner(
            "a checkpoint of 420 MB holds up a step",
            "s",
            [(said["blocked"], said["plain"]) for said in saving],
            than="a plain save",
            at_least=1 / SAVE_GOAL,
        ),
        absolute(
            "telemetry, of our fastest step",
            "%",
            [100 * said["telemetry"] / step_seconds for said in saving],
            below=TELEMETRY_GOAL_PERCENT,
        ),
    ]


async def _saving(folder: Path) -> dict[str, float]:
    target = folder / f"saving-{uuid4()}"
    await asyncio.to_thread(target.mkdir)
    said: dict[str, float] = json.loads(await output("saving", str(target)))
    await asyncio.to_thread(shutil.rmtree, target)
    return said


def make_model(folder: Path) -> Path:
    """Random weights in ``SHAPE``, with the development model's tokenizer."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = base_model()
    shutil.copytree(tokenizer, folder)
    vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    SHAPE.vocab_size = vocabulary
    LlamaForCausalLM(SHAPE).save_pretrained(folder)
    return folder


def spec(model: Path, dataset: Path, out_dir: Path, steps: int) -> TrainSpec:
    return TrainSpec(
        job_id=uuid4(),
        job_type="finetune",
        model_path=str(model),
        dataset_path=str(dataset),
        out_dir=str(out_dir),
        params=FinetuneParams(
            steps=steps,
            learning_rate=1e-3,
            seq_len=SEQ_LEN,
            batch_size=ROWS,
            lora_rank=RANK,
            validation_fraction=0.01,
        ),
        threads=threads(),
    )


async def _ours(job: TrainSpec, folder: Path, rival: Rival) -> Ran:
    file = folder / "spec.json"
    file.write_bytes(msgspec.json.encode(job))
    options = [*(["--bf16"] if rival.bf16 else []), *(["--compiled"] if rival.compiled else [])]
    return await ran("ours", str(file), *options)


async def _theirs(rival: Rival, model: Path, dataset: Path, folder: Path, steps: int) -> Ran:
    return await ran(
        rival.script,
        *(str(model), str(dataset), str(folder / "theirs"), f"--steps={steps}"),
        *(f"--batch-tokens={ROWS * SEQ_LEN}", f"--seq-len={SEQ_LEN}", f"--rank={RANK}"),
        f"--threads={threads()}",
        *rival.options,
    )


async def ran(script: str, *arguments: str) -> Ran:
    """Run a script of `tests.bench.rivals`; what it says of itself."""
    began = time.time()
    values: dict[str, float] = {}
    for line in (await output(script, *arguments)).splitlines():
        if line.startswith(b'{"'):
            values |= json.loads(line)
    return Ran(values["tokens_per_second"], values["first_step_at"] - began)


async def output(script: str, *arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"tests.bench.rivals.{script}", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{script} failed: {complaint.decode()[-2000:]}")
    return said


async def _first_step(launcher: ForkServerLauncher, job: TrainSpec) -> float:
    """Seconds from asking a warm worker for a training process to the end of its first step, data
    set read and untuned model measured."""
    out_dir = Path(job.out_dir)
    await asyncio.to_thread(shutil.rmtree, out_dir, ignore_errors=True)
    began = time.time()
    training = await launcher.launch(job, out_dir.with_suffix(".output"))
    if status := await training.ended():
        raise RuntimeError(f"our training process ended with {status}")
    lines = await asyncio.to_thread((out_dir / METRICS).read_bytes)
    points = msgspec.json.Decoder(MetricPoint).decode_lines(lines)
    return next(p.ts.timestamp() for p in points if p.phase == "train") - began


def threads() -> int:
    return os.cpu_count() or 1
