"""Options for a job's hyperparameters, made of the SDK's request types: none is forgotten."""

import argparse
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from msgspec import UNSET, UnsetType

from tuneyard.cli.options import Parser
from tuneyard.types import ContractHyperparams, FinetuneHyperparams, TrainHyperparams

JobType = Literal["finetune", "train", "contract"]
Hyperparams: TypeAlias = FinetuneHyperparams | TrainHyperparams | ContractHyperparams

KINDS: dict[JobType, type[Hyperparams]] = {
    "finetune": FinetuneHyperparams,
    "train": TrainHyperparams,
    "contract": ContractHyperparams,
}
# The model is one option of its own.
NAMED_OTHERWISE = {"source_model_id", "base_model_id"}

HELP = {
    "output_name": "a name for the new model",
    "seed": "makes a run repeatable",
    "method": "an adapter (lora), every weight (full), or preferences (dpo)",
    "steps": "optimizer steps",
    "lora_rank": "capacity of the adapter",
    "lora_alpha": "weight of the adapter",
    "lr": "peak of the learning rate",
    "seq_len": "tokens in a row of a batch",
    "batch_size": "rows in an optimizer step",
    "warmup_ratio": "share of the steps in which the rate rises",
    "weight_decay": "pull of the weights towards zero",
    "max_grad_norm": "longer gradients are shortened to it",
    "validation_fraction": "share of the rows that is held out",
    "eval_every": "steps between two evaluations",
    "checkpoint_every": "steps between two checkpoints",
    "target_modules": "layers that get an adapter, as q_proj,v_proj",
    "use_rslora": "scale by alpha over the root of the rank",
    "beta": "how closely dpo keeps to the base",
    "merged_model": "also make the base with the adapter merged in",
    "patience": "evaluations without progress after which it ends early",
    "strategy": "whole blocks (depth), or neurons of every block (width)",
    "trainable": "what learns: what has grown, or every weight",
    "turns": "full passes of training",
    "cycles": "cycles of growing",
    "steps_per_cycle": "optimizer steps in a cycle",
    "layers_per_cycle": "blocks that a cycle adds",
    "contraction_ratio": "share of what is looked at that is removed",
    "num_layers_to_contract": "how many of the least influential layers to look at",
    "calibration_rows": "rows that tell which layers matter",
}


def fields_of(job_type: JobType) -> dict[str, Any]:
    """Name to type, without what says that it may be left out."""
    hints = get_type_hints(KINDS[job_type])
    return {name: _given(hint) for name, hint in hints.items() if name not in NAMED_OTHERWISE}


def _given(hint: Any) -> Any:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (given,) = (each for each in members if each not in (UnsetType, type(None)))
    return given


def add_hyperparams(parser: Parser, job_type: JobType) -> None:
    options = parser.add_argument_group(
        "hyperparameters", "What is left out is as recommended, or the platform's default."
    )
    for name, kind in fields_of(job_type).items():
        said: dict[str, Any] = {"help": HELP[name], "default": UNSET}
        if get_origin(kind) is Literal:
            said["choices"] = get_args(kind)
        elif kind is bool:
            said["action"] = argparse.BooleanOptionalAction
        elif kind == list[str]:
            said |= {"type": _names, "metavar": "A,B"}
        else:
            said |= {"type": kind, "metavar": "TEXT" if kind is str else "N"}
        options.add_argument(f"--{name.replace('_', '-')}", **said)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def hyperparams_of(job_type: JobType, said: dict[str, Any]) -> Hyperparams:
    return KINDS[job_type](**{name: said[name] for name in fields_of(job_type)})
