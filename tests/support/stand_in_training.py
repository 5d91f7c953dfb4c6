"""Training without a model: writes the files that `services.trainer.train` writes, quickly.

The data set's text says how it is to go: ``finish``, ``slow`` (finishes if nobody stops it),
``until PATH`` (slow, and does not finish before there is such a file), ``deaf`` (slow, and ignores
SIGTERM), ``brittle`` (slow, and dies of it), ``tell`` (says what it was given), ``fail``,
``crash``.
"""

import hashlib
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from libs.contracts.results import RunResult
from libs.contracts.training import MetricPoint, TrainSpec
from services.trainer.tail import RunState, RunStatus

TOKENS_A_STEP = 10
SLOW_SECONDS = 0.05


def run(spec: TrainSpec) -> None:
    script = Path(spec.dataset_path or "").read_text()
    out = Path(spec.out_dir)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    if script == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if script == "brittle":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    begin = int(spec.resume_from.rpartition("-")[2]) if spec.resume_from else 0
    _state(out, begin, spec.params.steps)
    print(f"training in the trace {spec.trace_id}", file=sys.stderr, flush=True)
    if script == "fail":
        message = "line 3 has no answer to learn; remove it"
        _put(
            out, "status.json", RunStatus(outcome="failed", code="invalid_dataset", message=message)
        )
        raise SystemExit(1)
    if script == "crash":
        print("the ground opened", file=sys.stderr, flush=True)
        signal.raise_signal(signal.SIGABRT)
    if script == "tell":
        _tell(spec, out / "log.txt")
    step = begin
    with (out / "metrics.jsonl").open("ab") as metrics, (out / "log.txt").open("a") as log:
        while step < spec.params.steps and not stopped:
            step += 1
            metrics.write(msgspec.json.encode(_point(step)) + b"\n")
            metrics.flush()
            log.write(f"step {step}\n")
            log.flush()
            _state(out, step, spec.params.steps)
            if step % spec.params.checkpoint_every == 0:
                _checkpoint(out, step)
            time.sleep(0 if script in ("finish", "tell") else SLOW_SECONDS)
        while not stopped and script.startswith("until ") and not os.path.exists(script[6:]):
            time.sleep(SLOW_SECONDS)
    if stopped:
        _checkpoint(out, step)
    else:
        (out / "model").mkdir()
        (out / "model" / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
        (out / "model" / "adapter_config.json").write_text("{}")
        (out / "model" / "tokenizer.json").write_text("{}")
        (out / "model" / "README.md").write_text("# A model")
        if spec.params.merged_model:
            (out / "merged").mkdir()
            (out / "merged" / "model.safetensors").write_bytes(b"weights" * 2000)
            (out / "merged" / "config.json").write_text("{}")
        _put(out, "result.json", _result(step))
    status = RunStatus(
        outcome="stopped" if stopped else "finished", tokens_processed=step * TOKENS_A_STEP
    )
    _put(out, "status.json", status)
    with (out / "log.txt").open("a") as log:
        log.write("done\n")
    os._exit(0)  # at once: what was written last is to be published all the same


def _tell(spec: TrainSpec, log: Path) -> None:
    """What lies at every path of the spec."""
    places = {
        "adapter": spec.adapter_path,
        "held out": spec.validation_path,
        "start": spec.start_from,
        "resumed": spec.resume_from,
    }
    with log.open("a") as lines:
        for name, place in places.items():
            if place is not None:
                path = Path(place)
                files = sorted(path.iterdir()) if path.is_dir() else [path]
                held = ", ".join(f"{file.name}={file.read_text()}" for file in files)
                lines.write(f"{name} in {path.name}: {held}\n")


def _checkpoint(out: Path, step: int) -> None:
    draft = out / "checkpoints" / f".step-{step}"
    draft.mkdir(parents=True)
    (draft / "state.safetensors").write_bytes(hashlib.sha256(str(step).encode()).digest() * 100)
    (draft / "progress.json").write_text(f'{{"tokens_processed": {step * TOKENS_A_STEP}}}')
    draft.rename(out / "checkpoints" / f"step-{step}")


def _state(out: Path, step: int, steps: int) -> None:
    state = RunState(
        step=step,
        steps_total=steps,
        phase="train",
        tokens_processed=step * TOKENS_A_STEP,
        device="cpu",
    )
    _put(out, "state.json", state)


def _put(out: Path, name: str, value: msgspec.Struct) -> None:
    draft = out / f".{name}"
    draft.write_bytes(msgspec.json.encode(value))
    draft.rename(out / name)


def _point(step: int) -> MetricPoint:
    return MetricPoint(
        ts=datetime.now(UTC),
        step=step,
        cycle=0,
        phase="train",
        loss=1 / step,
        lr=1e-3,
        throughput=1000.0,
        vram_gb=1.5,
        grad_norm=1.0,
    )


def _result(step: int) -> RunResult:
    return RunResult(
        ppl_baseline=40.0,
        ppl_final=20.0,
        ppl_delta_pct=-50.0,
        loss_final=3.0,
        params_before=100,
        params_after=110,
        params_delta=10,
        function_preservation=0.0,
        gpu_seconds=1.0,
        tokens_processed=step * TOKENS_A_STEP,
        split="validation",
        steps=step,
        train_loss_final=1 / step,
        rows_truncated=0,
        tokens_truncated=0,
        device="cpu",
    )
