"""The job type ``contract``: a model loses what it needs least. Read it downwards.

In depth: of the blocks that change what runs through them least (block influence; Men et al.,
"ShortGPT", 2403.03853), one after another the one without which the loss is lowest. In width: of
each MLP the neurons that say least, and what is left takes over what they said (`narrowing`). Both
are measured on the job's data set, or on text that the model writes. A run writes no checkpoints:
it is short, and begun anew it comes to the same result.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from libs.contracts.results import RunResult
from libs.contracts.training import ContractParams, TrainSpec
from services.trainer import export
from services.trainer.batches import MICRO_TOKENS, logits, make_batch, mean_loss
from services.trainer.checkpoint import Identity
from services.trainer.depth import Blocks, blocks_of, keep
from services.trainer.documents import (
    Document,
    Documents,
    Split,
    load_documents,
    prepare_tokenizer,
    split,
)
from services.trainer.journal import Journal, replace
from services.trainer.loading import (
    ModelError,
    choose_device,
    choose_dtype,
    load_base,
    load_tokenizer,
    sha256_of,
)
from services.trainer.narrowing import activity, narrowed, narrower, refit, strongest
from services.trainer.packing import micro_batches
from services.trainer.proof import held_out_logits, parity_gate, side_by_side
from services.trainer.run import (
    Outcome,
    Run,
    device_name,
    dtype_name,
    lineage,
    perplexity,
    record,
    spaced,
    tell,
)
from services.trainer.selfwritten import write
from services.trainer.width import Mlps, mlps_of, say_width

# One text in this many is not looked at when it is chosen what goes, so that the perplexity before
# and after is not that of the very text for which the choice is best.
HELD_OUT_ONE_IN = 4

# One to choose by, one to measure on.
FEWEST_TEXTS = 2

# What was published of removing blocks without training afterwards: fine up to about here. Of
# neurons, too (LLM-Pruner, 2305.11627: a fifth of the parameters).
WARN_ABOVE = 0.2


class Stopped(Exception):
    """The run was asked to stop, when it had gone through ``tokens`` tokens of new text."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


class Cut(NamedTuple):
    """Of the blocks from the second on, ``candidates`` are looked at and ``removals`` removed."""

    candidates: int
    removals: int


class Before(NamedTuple):
    """The model as it came: its size, and what it says on the held-out texts."""

    params: int
    loss: float
    logits: Tensor


class Contracted(NamedTuple):
    """What was done to the model, its ``loss`` on the texts by which that was chosen, and a context
    in which the model is what it was."""

    title: str
    loss: float
    undone: Callable[[], AbstractContextManager[Any]]


def contract(spec: TrainSpec, journal: Journal, asked_to_stop: Callable[[], bool]) -> Outcome:
    """Runs the job. Raises `DatasetError`, `ModelError`, `ParityError`."""
    model, run = prepare(spec, journal)
    shorten = in_width if spec.contract.strategy == "width" else in_depth
    run, work = shorten(run, model, asked_to_stop)
    started = time.perf_counter()
    try:
        run = choose_texts(run, model, asked_to_stop)
        before = measure(run, model)
        done = work(run)
    except Stopped as stopped:
        journal.log("stopped as asked; begun anew, the job comes to the same result")
        tell(run, "stopped", 0, stopped.tokens, now=True)
        return Outcome(None, stopped.tokens)
    result = finish(run, model, before, done, started)
    return Outcome(result, result.tokens_processed)


def prepare(spec: TrainSpec, journal: Journal) -> tuple[Any, Run]:
    """The model; the texts come later, and so does what will be done."""
    device = choose_device(spec.device)
    dtype = choose_dtype(device, spec.precision)
    path = Path(spec.model_path)
    tokenizer = load_tokenizer(path)
    prepare_tokenizer(tokenizer)
    model = load_base(path, device, dtype, Path(spec.adapter_path) if spec.adapter_path else None)
    dataset = sha256_of(Path(spec.dataset_path)) if spec.dataset_path else ""
    run = Run(
        spec=spec,
        steps=0,
        journal=journal,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        data=Documents([], 0, 0),
        split=Split([], [], ""),
        identity=Identity(
            params=None, dataset_sha256=dataset, model_sha256="", dtype=dtype_name(dtype)
        ),
    )
    journal.log(
        f"model: {spec.base_name}, {spaced(model.num_parameters())} parameters in "
        f"{run.identity.dtype} on {device_name(device)}"
    )
    return model, run


Work = Callable[[Run], Contracted]
"""The contraction itself, when the run has texts. Raises `Stopped`."""


def in_depth(run: Run, model: Any, asked_to_stop: Callable[[], bool]) -> tuple[Run, Work]:
    """The run with its number of steps, one a block that goes, and what they do."""
    blocks = blocks_of(model)
    asked, depth = run.spec.contract.num_layers_to_contract, len(blocks.modules)
    cut = plan(depth, run.spec.contract)
    run.journal.log(f"{depth} blocks, {depth - cut.removals} after contraction")
    if cut.candidates < asked:
        run.journal.log(
            f"num_layers_to_contract is {asked}, but only {cut.candidates} of this model's {depth} "
            "blocks can be removed: the first one never is"
        )
    warn_above(run, cut.removals / depth, "its blocks")

    def work(run: Run) -> Contracted:
        candidates = least_influential(run, model, blocks, cut.candidates)
        kept, loss = choose(run, model, blocks, candidates, asked_to_stop)
        keep(model, blocks, kept)
        title = f"without {cut.removals} of its {depth} blocks"
        return Contracted(title, loss, lambda: uncut(model, blocks, kept))

    return run._replace(steps=cut.removals), work


def in_width(run: Run, model: Any, asked_to_stop: Callable[[], bool]) -> tuple[Run, Work]:
    """The run with its number of steps, one a layer, and what they do."""
    mlps = mlps_of(model)
    width = narrower(mlps.width, run.spec.contract.contraction_ratio)
    share = 1 - width / mlps.width
    run.journal.log(f"{mlps.width} neurons in every MLP, {width} after contraction ({share:.0%})")
    warn_above(run, share, "its MLPs' neurons")

    def work(run: Run) -> Contracted:
        narrow = narrow_all(run, model, mlps, width, asked_to_stop)
        loss = mean_loss(model, run.split.train, run.device, run.dtype)
        title = f"with {width} of its {mlps.width} neurons in every MLP"
        return Contracted(title, loss, lambda: unnarrowed(model, mlps, narrow))

    return run._replace(steps=len(mlps.modules)), work


def warn_above(run: Run, share: float, of_what: str) -> None:
    if share > WARN_ABOVE:
        run.journal.log(
            f"warning: without {share:.0%} of {of_what} the model may have lost much of what it "
            "knew; fine-tune it afterwards, or lower contraction_ratio"
        )


def plan(depth: int, p: ContractParams) -> Cut:
    """Raises `ModelError` if nothing can be removed."""
    if depth < 2:
        raise ModelError(
            "the model has only one block, and the first is never removed; choose a deeper model"
        )
    candidates = min(p.num_layers_to_contract, depth - 1)
    return Cut(candidates, max(1, round(p.contraction_ratio * candidates)))


def choose_texts(run: Run, model: Any, asked_to_stop: Callable[[], bool]) -> Run:
    """The run with texts, some of them held out: its data set's, or what its model writes. Raises
    `DatasetError`, `Stopped`."""
    p = run.spec.contract
    length = min(p.seq_len, getattr(model.config, "max_position_embeddings", p.seq_len))
    count = max(FEWEST_TEXTS, p.calibration_rows)
    if run.spec.dataset_path:
        return texts_of_dataset(run, Path(run.spec.dataset_path), count, length)
    return own_texts(run, model, count, length, asked_to_stop)


def texts_of_dataset(run: Run, path: Path, count: int, length: int) -> Run:
    """Rows of the data set, drawn by the seed, with what is learnt of them as a training has it."""
    seed = run.spec.contract.seed
    data = load_documents(path, run.tokenizer, length)
    drawn = random.Random(seed).sample(range(len(data.rows)), min(count, len(data.rows)))
    rows = [data.rows[number] for number in sorted(drawn)]
    parts = split(rows, 1 / HELD_OUT_ONE_IN, seed)
    name = f"validation ({len(parts.validation)} of {len(rows)} rows, seed {seed})"
    run.journal.log(
        f"calibrated on {len(parts.train)} rows of the data set's {len(data.rows)}, measured on "
        f"{len(parts.validation)} others"
    )
    return run._replace(data=data._replace(rows=rows), split=parts._replace(name=name))


def own_texts(
    run: Run, model: Any, count: int, length: int, asked_to_stop: Callable[[], bool]
) -> Run:
    seed = run.spec.contract.seed
    tell(run, "sample", 0, 0, now=True)
    texts: list[Document] = []
    for some in write(model, run.tokenizer, count, length, seed):
        texts += some
        tell(run, "sample", 0, len(texts) * length)
        if asked_to_stop():
            raise Stopped(len(texts) * length)
    held_out = max(1, len(texts) // HELD_OUT_ONE_IN)
    name = f"self-generated text ({held_out} of {len(texts)} rows, seed {seed})"
    run.journal.log(
        f"the model has written {len(texts)} texts of {length} tokens, to be measured on"
    )
    return run._replace(
        data=Documents(texts, 0, 0), split=Split(texts[held_out:], texts[:held_out], name)
    )


def measure(run: Run, model: Any) -> Before:
    loss = evaluate(run, model, 0)
    return Before(sum(p.numel() for p in model.parameters()), loss, held_out_logits(run, model))


def evaluate(run: Run, model: Any, step: int) -> float:
    """Mean loss on the held-out texts."""
    tell(run, "eval", step, written(run), now=True)
    started = time.perf_counter()
    loss = mean_loss(model, run.split.validation, run.device, run.dtype)
    tokens = sum(len(d.tokens) for d in run.split.validation)
    record(run, "eval", step=step, loss=loss, throughput=tokens / (time.perf_counter() - started))
    run.journal.log(
        f"eval · {run.split.name} · loss {loss:.3f} · perplexity {perplexity(loss):.2f}"
    )
    return loss


def least_influential(run: Run, model: Any, blocks: Blocks, count: int) -> list[int]:
    """The blocks that change what runs through them least, without the first. Others build on what
    that one makes of the embeddings: a model without it says nothing sensible."""
    influence = block_influence(run, model, blocks)
    shown = " ".join(f"{value:.3f}" for value in influence)
    run.journal.log(f"influence of each block, from 0 (none) on: {shown}")
    return sorted(range(1, len(influence)), key=lambda number: influence[number])[:count]


@torch.no_grad()
def block_influence(run: Run, model: Any, blocks: Blocks) -> list[float]:
    """1 - the mean cosine between what enters a block and what leaves it, in fp32."""
    total = torch.zeros(len(blocks.modules), dtype=torch.float64)
    real = 0  # tokens of the batch that are text, in front of what fills it up

    def listen(number: int) -> Callable[..., None]:
        def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            entered = args[0] if args else kwargs["hidden_states"]
            left = output[0] if isinstance(output, tuple) else output
            alike = cosine_similarity(entered[0, :real].float(), left[0, :real].float(), dim=-1)
            total[number] += alike.double().sum().cpu()

        return hook

    hooks = [
        block.register_forward_hook(listen(number), with_kwargs=True)
        for number, block in enumerate(blocks.modules)
    ]
    for part in micro_batches(run.split.train, MICRO_TOKENS[run.device.type]):
        real = sum(len(d.tokens) for d in part)
        logits(model, make_batch(part, run.device, run.dtype))
    for handle in hooks:
        handle.remove()
    return (1 - total / sum(len(d.tokens) for d in run.split.train)).tolist()


def choose(
    run: Run,
    model: Any,
    blocks: Blocks,
    candidates: list[int],
    asked_to_stop: Callable[[], bool],
) -> tuple[list[int], float]:
    """(the blocks to keep, the loss without the others). Each removal looks anew at what is left:
    of two blocks that do the same, one may go. Raises `Stopped`."""
    texts = run.split.train
    tokens = sum(len(d.tokens) for d in texts)
    kept = list(range(len(blocks.modules)))
    loss = math.nan
    for step in range(1, run.steps + 1):
        started = time.perf_counter()
        losses = {}
        for number in candidates:
            if asked_to_stop():
                raise Stopped(written(run))
            keep(model, blocks, [n for n in kept if n != number])
            losses[number] = mean_loss(model, texts, run.device, run.dtype)
        chosen = min(losses, key=lambda n: losses[n] if math.isfinite(losses[n]) else math.inf)
        loss = losses[chosen]
        kept.remove(chosen)
        candidates = [n for n in candidates if n != chosen]
        throughput = len(losses) * tokens / (time.perf_counter() - started)
        record(run, "contract", step=step, loss=loss, throughput=throughput)
        run.journal.log(f"step {step}/{run.steps} · block {chosen + 1} removed · loss {loss:.3f}")
        tell(run, "contract", step, written(run))
    return kept, loss


@contextmanager
def uncut(model: Any, blocks: Blocks, kept: list[int]) -> Iterator[Any]:
    """Within it, the model is what it was before."""
    keep(model, blocks, range(len(blocks.modules)))
    yield model
    keep(model, blocks, kept)


def narrow_all(
    run: Run, model: Any, mlps: Mlps, width: int, asked_to_stop: Callable[[], bool]
) -> list[Any]:
    """Gives the model MLPs of so many neurons, from below: each is chosen and refitted on what
    comes out of those that are narrow already. Raises `Stopped`."""
    texts = run.split.train
    tokens = sum(len(d.tokens) for d in texts)

    def check() -> None:
        if asked_to_stop():
            raise Stopped(written(run))

    now = list(mlps.modules)
    for step, mlp in enumerate(mlps.modules, 1):
        started = time.perf_counter()
        seen = activity(model, mlp, texts, run.device, run.dtype, check)
        kept = strongest(seen.score, width)
        now[step - 1] = narrowed(mlp, kept, refit(mlp.down_proj.weight, seen.gram, kept))
        mlps.put(now)
        loss = mean_loss(model, texts, run.device, run.dtype)
        throughput = 2 * tokens / (time.perf_counter() - started)
        record(run, "contract", step=step, loss=loss, throughput=throughput)
        run.journal.log(
            f"step {step}/{run.steps} · MLP {step} narrowed to {width} neurons · loss {loss:.3f}"
        )
        tell(run, "contract", step, written(run))
    say_width(model, width)
    return now


@contextmanager
def unnarrowed(model: Any, mlps: Mlps, narrow: list[Any]) -> Iterator[Any]:
    """Within it, the model is what it was before."""
    mlps.put(mlps.modules)
    yield model
    mlps.put(narrow)


def finish(run: Run, model: Any, before: Before, done: Contracted, started: float) -> RunResult:
    """Evaluation, export, parity gate, samples, result."""
    spec, tokens = run.spec, written(run)
    model_dir = Path(spec.out_dir) / "model"
    loss = evaluate(run, model, run.steps)
    compared = export.compare(before.logits, held_out_logits(run, model))
    seconds = time.perf_counter() - started
    run.journal.log("Contraction complete — saving your model…")
    tell(run, "export", run.steps, tokens, now=True)
    ppl_before, ppl_after = perplexity(before.loss), perplexity(loss)
    card = export.MODEL_CARD.format(
        base=spec.base_name,
        title=f"{spec.base_name}, {done.title}",
        split=run.split.name,
        ppl_baseline=ppl_before,
        ppl_final=ppl_after,
    )
    export.export_model(model, run.tokenizer, card, model_dir)
    reloaded = export.reload(model_dir, None, run.device, run.dtype)
    params = sum(p.numel() for p in model.parameters())
    result = RunResult(
        ppl_baseline=ppl_before,
        ppl_final=ppl_after,
        ppl_delta_pct=100 * (ppl_after / ppl_before - 1),
        loss_final=loss,
        params_before=before.params,
        params_after=params,
        params_delta=params - before.params,
        function_preservation=compared.mean_kl,
        gpu_seconds=seconds,
        tokens_processed=tokens,
        split=run.split.name,
        steps=run.steps,
        train_loss_final=done.loss,
        rows_truncated=run.data.rows_truncated,
        tokens_truncated=run.data.tokens_truncated,
        device=device_name(run.device),
        parity=parity_gate(run, model, reloaded),
        samples=side_by_side(run, model, done.undone),
        lineage=lineage(run),
    )
    replace(model_dir.with_name("result.json"), result)
    run.journal.log(
        f"done · {spaced(before.params)} parameters before, {spaced(params)} after · perplexity on "
        f"{run.split.name}: {ppl_before:.2f} before, {ppl_after:.2f} after"
    )
    tell(run, "done", run.steps, tokens, now=True)
    return result


def written(run: Run) -> int:
    """The tokens of the texts: reading them again and again is not counted."""
    return sum(len(d.tokens) for d in run.data.rows)
