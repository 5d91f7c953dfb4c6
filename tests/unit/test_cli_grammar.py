"""The command line's grammar: nothing that the API takes is missing, and everything is said."""

import argparse
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from tests.support.commands import leaves
from tuneyard import types
from tuneyard.cli.completion import candidates
from tuneyard.cli.entry import parser
from tuneyard.cli.hyperparams import HELP, KINDS, NAMED_OTHERWISE, JobType, hyperparams_of
from tuneyard.resources.jobs import JobType as ApiJobType

LEAVES = leaves(parser())
FOR_ALL = {"--json", "--field", "--api-key", "--base-url"}


def said_with(job_type: str, *options: str) -> dict[str, Any]:
    required = ["--model", "m"] + (["--dataset", "d"] if job_type != "contract" else [])
    return vars(parser().parse_args(["submit", job_type, *required, *options]))


@pytest.mark.parametrize("job_type", get_args(ApiJobType))
def test_every_hyperparameter_of_every_type_is_an_option_of_its_submission(
    job_type: JobType,
) -> None:
    struct = KINDS[job_type]
    for name in struct.__struct_fields__:
        if name in NAMED_OTHERWISE:
            continue
        option = f"--{name.replace('_', '-')}"
        (action,) = (a for a in _actions("submit", job_type) if option in a.option_strings)
        value = _example(action)
        given = hyperparams_of(job_type, said_with(job_type, *value))
        sent = {each: getattr(given, each) for each in struct.__struct_fields__}
        # What was not said is not sent, so that the platform's own default holds.
        set_ones = {each for each, of in sent.items() if of is not types.requests.UNSET}
        assert set_ones == {name}


def _actions(*path: str) -> list[argparse.Action]:
    return LEAVES[" ".join(path)]._actions


def _example(action: argparse.Action) -> list[str]:
    option = action.option_strings[0]
    if action.choices:
        return [option, str(next(iter(action.choices)))]
    if isinstance(action, argparse.BooleanOptionalAction):
        return [option]
    return [option, "7"]


def test_an_estimate_takes_what_a_submission_takes() -> None:
    for job_type in KINDS:
        estimated, submitted = (
            {option for action in _actions(verb, job_type) for option in action.option_strings}
            for verb in ("estimate", "submit")
        )
        more = {"--estimate", "--follow", "-f", "--idempotency-key", "--yes", "-y"}
        assert submitted - estimated == more
        assert estimated <= submitted


def test_a_switch_can_be_turned_off_and_a_list_is_split() -> None:
    said = said_with("finetune", "--no-merged-model", "--target-modules", "q_proj,v_proj")
    given = hyperparams_of("finetune", said)

    assert isinstance(given, types.FinetuneHyperparams)
    assert given.merged_model is False
    assert given.target_modules == ["q_proj", "v_proj"]


def test_every_command_answers_in_json_and_explains_itself() -> None:
    assert len(LEAVES) > 25
    for name, leaf in LEAVES.items():
        options = {option for action in leaf._actions for option in action.option_strings}
        assert options >= FOR_ALL, name
        assert leaf.description, name
        for action in leaf._actions:
            obvious = action.choices or action.metavar or action.dest == "cursor"
            assert action.help or obvious, f"{name}: {action.dest}"


def test_no_hyperparameter_is_explained_that_is_none() -> None:
    fields = {name for struct in KINDS.values() for name in struct.__struct_fields__}

    assert set(HELP) == fields - NAMED_OTHERWISE


def completed(*words: str) -> list[str]:
    return [name for name, _ in candidates(parser(), words)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("lo",), ["login", "logout", "logs"]),
        (("submit", ""), ["finetune", "train", "contract", "run"]),
        (("submit", "finetune", "--lora"), ["--lora-rank", "--lora-alpha"]),
        (("submit", "finetune", "--method", ""), ["lora", "full", "dpo"]),
        (("submit", "finetune", "--method", "lora", "--start"), ["--start-from"]),
        (("submit", "train", "--dataset", "dat"), []),
        (("completion", "f"), ["fish"]),
        (("nothing", ""), []),
    ],
)
def test_a_shell_is_told_what_may_come_next(words: tuple[str, ...], found: list[str]) -> None:
    assert sorted(completed(*words)) == sorted(found)


def every_prefix() -> Iterator[list[str]]:
    for name in LEAVES:
        words = name.split()
        for n in range(len(words) + 1):
            yield [*words[:n], ""]
            yield [*words[:n], "-"]


def test_completion_leads_to_every_command() -> None:
    for name in LEAVES:
        *before, last = name.split()
        assert last in completed(*before, "")
    for words in every_prefix():
        completed(*words)
