"""schemathesis over the OpenAPI document: each operation by itself, and chains of them.

Chains go along the document's links and along those that schemathesis infers from it. The same
seed sends the same requests, as far as the answers to them (ids, states) are the same.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import schemathesis
from hypothesis import strategies as st
from msgspec import Struct, field
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.run import PhaseName

from tests.fuzz import checks
from tests.fuzz.running import HOOK, Target

MAX_ROUNDS = 20  # of seeds after each other; a run ends also when cases run short
LEAST_EACH = 10  # cases of an operation in a round, so that the last rounds are few
CHAIN_STEPS = 8  # upload, submit, look, look, cancel, look, look, delete
SHARE_OF_CHAINS = 0.35  # of the cases; their states are what cases of one operation can't reach
KNOWN_SHARE = 0.5  # how often an id is one that exists
SHOWN_FAILURES = 30
MODEL = "tiny-llama"
URL = re.compile(r"https?://[!-~]{1,2000}")  # as the document has it
MOST_MODEL_CHARS = 64  # as the document has it
REQUEST_SECONDS = 20
PROGRESS_SECONDS = 10.0
BY_CHANCE = (PhaseName.FUZZING, PhaseName.STATEFUL_TESTING)  # another seed sends something else
PHASES = (PhaseName.EXAMPLES, PhaseName.COVERAGE, *BY_CHANCE)

CHECKS = {
    # 402, 409 and 404 are the state's, and which 422 are is told by `checks.STATE`.
    "positive_data_acceptance": {"expected-statuses": ["2xx", "401", "402", "404", "409"]},
}
"""Where we differ from schemathesis. All of its checks run, and our own in `tests.fuzz.checks`."""

AFTER_COMPLETION = ["downloadRun", "downloadJob", "getJobResult", "extendStorage"]
"""What a new job does not have yet: 404 by contract, so not `ensure_resource_availability`."""

ROWS = (
    b'{"text": "hello"}\n',
    b'{"text": "a"}\n\n{"text": "b", "more": [1]}',
    b'{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}\n',
    b'{"prompt": "1 + 1 =", "completion": " 2"}\r\n',
    b'{"instruction": "say so", "input": "", "output": "so"}\n',
    '{"text": "žluťoučký 👩‍🔬"}\n'.encode(),
)
GOOD_FILES = st.sampled_from(ROWS)
FILES = st.one_of(GOOD_FILES, GOOD_FILES, GOOD_FILES, st.binary(max_size=200))
"""Three of four are good, so that chains go on."""


class Size(Struct, frozen=True):
    """``cases`` at least, unless ``MAX_ROUNDS`` had fewer. With fewer ``phases`` fewer are sent."""

    cases: int
    phases: tuple[PhaseName, ...] = PHASES


class Figures(Struct, kw_only=True):
    """What was sent, by what was answered."""

    cases: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, Counter[int]] = {}
    failures: dict[tuple[str, str], str] = {}

    def lines(self) -> Iterator[str]:
        for label, statuses in sorted(self.statuses.items()):
            told = "  ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
            yield f"{label:55} {told}"
        phases = ", ".join(f"{count} {name}" for name, count in self.by_phase.items())
        yield f"{self.cases} cases ({phases}), {len(self.failures)} failures"
        for (label, title), told in list(self.failures.items())[:SHOWN_FAILURES]:
            yield f"\n--- {label}: {title}\n{told}"


def fuzz_document(target: Target, size: Size, seed: int, say: Callable[[str], None]) -> Figures:
    """Blocks; to be run in a thread, since the platform's supervisor lives in an event loop."""
    figures = Figures()
    schemathesis.openapi.format("binary", FILES)
    phases, told = size.phases, time.monotonic()
    for number in range(MAX_ROUNDS):
        missing = size.cases - figures.cases
        if missing <= 0:
            break
        for event in from_schema(_schema(target, phases, missing, seed + number)).execute():
            _note(event, figures, say)
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                say(f"{figures.cases} cases, {len(figures.failures)} failures")
        phases = tuple(name for name in phases if name in BY_CHANCE)
    return figures


def _schema(target: Target, phases: tuple[PhaseName, ...], cases: int, seed: int) -> Any:
    operations = sum(len(item) for item in target.document["paths"].values())
    each = max(LEAST_EACH, int(cases * (1 - SHARE_OF_CHAINS) / operations))
    chains = max(1, int(cases * SHARE_OF_CHAINS / CHAIN_STEPS))
    config = schemathesis.Config.from_dict(
        {
            "base-url": target.url,
            "headers": target.headers,
            "seed": seed,
            "continue-on-failure": True,
            "request-timeout": REQUEST_SECONDS,
            "suppress-health-check": ["all"],
            "warnings": False,
            # So that what failed can be sent again as it was; the key dies with the platform.
            "output": {"sanitization": {"enabled": False}},
            "checks": CHECKS,
            "operations": [
                {
                    "include-operation-id": AFTER_COMPLETION,
                    "checks": {"ensure_resource_availability": {"enabled": False}},
                }
            ],
            "generation": {"database": "none", "no-shrink": True, "max-examples": each},
            "phases": {
                "enabled": False,
                **{name.value: {"enabled": True} for name in phases},
                "stateful": {
                    "enabled": PhaseName.STATEFUL_TESTING in phases,
                    "max-steps": CHAIN_STEPS,
                    "generation": {"max-examples": chains},
                },
            },
            "dictionaries": {
                name: {"values": list(values)} for name, values in target.known.items()
            },
            "parameters": {
                key: {"dictionary": name, "probability": KNOWN_SHARE}
                for name in target.known
                for key in (f"path.{name}", f"body.{name}")
            }
            | {"body.base_model_id": {"dictionary": "model_id", "probability": KNOWN_SHARE}},
        }
    )
    schema = schemathesis.openapi.from_dict(dict(target.document), config=config)
    checks.prepare(target)

    @schema.hook
    def flatmap_body(context: Any, body: Any) -> Any:
        return st.sampled_from((body, sensible(body, target)))

    return schema


def sensible(body: Any, target: Target) -> Any:
    """The body with what only the state knows: a model that is there, the account's data set, a URL
    that may be sent to, every consent. Good values take the place of good ones alone: what is wrong
    stays wrong."""
    if not isinstance(body, dict):
        return body
    changed = {name: True if value is False else value for name, value in body.items()}
    if _names_something(changed.get("model_id")):
        changed["model_id"] = MODEL
    if _is_uuid(changed.get("dataset_id")):
        changed["dataset_id"] = target.known["dataset_id"][0]
    if isinstance(changed.get("url"), str) and URL.fullmatch(changed["url"]):
        changed["url"] = HOOK
    if "type" in changed:
        changed = _without_models(changed)
        if isinstance(changed.get("hyperparams"), dict):
            changed["hyperparams"] = _without_models(changed["hyperparams"])
        changed.setdefault("base_model_id", MODEL)
    return changed


def _without_models(part: dict[str, Any]) -> dict[str, Any]:
    models = ("source_model_id", "base_model_id")
    return {
        name: value
        for name, value in part.items()
        if name not in models or not (value is None or _names_something(value))
    }


def _names_something(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_MODEL_CHARS


def _is_uuid(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


def _note(event: Any, figures: Figures, say: Callable[[str], None]) -> None:
    if isinstance(event, events.ScenarioFinished):
        _note_scenario(event, figures)
    elif isinstance(event, events.PhaseFinished) and event.status is not Status.SKIP:
        say(f"{event.phase.name.value}: {event.status.value}, {figures.cases} cases so far")
    elif isinstance(event, events.NonFatalError):
        figures.failures.setdefault((event.label, "error"), event.info.format())
    elif isinstance(event, events.FatalError):
        raise event.exception


def _note_scenario(event: events.ScenarioFinished, figures: Figures) -> None:
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        label = recorder.cases[case_id].value.operation.label
        status = interaction.response.status_code if interaction.response else 0
        figures.cases += 1
        figures.by_phase[event.phase.value] += 1
        figures.statuses.setdefault(label, Counter())[status] += 1
        if interaction.response is None:
            figures.failures.setdefault((label, "no answer"), interaction.request.uri)
    for case_id, results in recorder.checks.items():
        label = recorder.cases[case_id].value.operation.label
        for result in results:
            if result.status is Status.FAILURE and result.failure_info is not None:
                failure = result.failure_info.failure
                response = recorder.find_response(case_id=case_id)
                said = response.content[:500] if response and response.content else b""
                told = f"{failure.message}\n{result.failure_info.code_sample}\n{said!r}"
                figures.failures.setdefault((label, f"{result.name}: {failure.title}"), told)
