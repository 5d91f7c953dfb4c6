"""Our training loop alone, in the precision asked for: ``python -m tests.bench.rivals.ours``.

The service lets the hardware choose the precision; a comparison needs both. Prints the speed.
"""

import argparse
import json
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec
import torch

from libs.contracts.training import MetricPoint, TrainSpec
from services.trainer.finetune import begin, load_model, train
from services.trainer.journal import METRICS, Journal
from services.trainer.packing import Position, training_steps
from services.trainer.run import Run, prepare
from services.trainer.train import settle
from tests.bench.rivals.hf_trainer import WARM_UP_STEPS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="as a long job is")
    asked = parser.parse_args()
    spec = msgspec.json.decode(asked.spec.read_bytes(), type=TrainSpec)
    settle(spec.threads)
    journal = Journal(Path(spec.out_dir), lambda: datetime.now(UTC), None)
    dtype = torch.bfloat16 if asked.bf16 else torch.float32
    run = prepare(spec, spec.finetune, journal)._replace(dtype=dtype)
    tuning = load_model(run)
    progress = begin(run, tuning)
    if asked.compiled:
        # What a job that was long enough left in its checkpoint.
        plan = run.plan
        progress = msgspec.structs.replace(
            progress, micro_tokens=plan.micro_tokens, recompute=plan.recompute, compiled=True
        )
    train(run, tuning, progress, lambda: False)
    journal.close()
    first, warm, last = _moments(Path(spec.out_dir))
    print(json.dumps({"first_step_at": first}))
    print(json.dumps({"tokens_per_second": _tokens(run) / (last - warm)}))


def _tokens(run: Run) -> int:
    """In the steps after the warm-up. Nothing is padded, so all of them are real."""
    p = run.spec.finetune
    steps = training_steps(run.split.train, p.batch_size * p.seq_len, p.seed, Position())
    measured = islice(steps, WARM_UP_STEPS, p.steps)
    return sum(len(document.tokens) for documents, _ in measured for document in documents)


def _moments(out_dir: Path) -> tuple[float, float, float]:
    """When the first step, the warm-up's last and the last step ended, telemetry and all."""
    points = msgspec.json.Decoder(MetricPoint).decode_lines((out_dir / METRICS).read_bytes())
    ends = {point.step: point.ts.timestamp() for point in points if point.phase == "train"}
    return ends[1], ends[WARM_UP_STEPS], max(ends.values())


if __name__ == "__main__":
    main()
