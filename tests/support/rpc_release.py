"""``just rpc``: write down what services ask each other, and what trainers report, as released.

It refuses to when two versions side by side would not understand each other: during an upgrade any
question of the released one may reach the current one, and the other way round.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from libs import contracts
from libs.contracts.rpc import Rpc
from libs.contracts.trainer import AnyReport
from libs.contracts.training import LogBatch, MetricBatch
from tests.support.schema_diff import Comparison, Json

RELEASED = Path(__file__).parents[2] / "docs" / "rpc.json"
REPLACE = "--replace"

ADVICE = (
    "The released version (docs/rpc.json) and this one would not understand each other while both"
    " run. A new field has a default; what is no longer needed stays for one release; a new"
    " question has a new subject."
)

SENT = {"reports.*": AnyReport, "telemetry.metrics": MetricBatch, "telemetry.logs": LogBatch}
"""What trainers send without waiting for an answer: a service of either version reads it."""


def questions() -> dict[str, Rpc[Any, Any]]:
    """Every one, by its subject."""
    found = {}
    for module in pkgutil.iter_modules(contracts.__path__):
        if module.name.endswith("_rpc"):
            declared = vars(importlib.import_module(f"libs.contracts.{module.name}")).values()
            found |= {one.subject: one for one in declared if isinstance(one, Rpc)}
    return dict(sorted(found.items()))


def current() -> Json:
    """The schema of each message, and of what they share."""
    asked = questions()
    types = [
        *(one.decode_request.type for one in asked.values()),
        *(one.decode_answer.type for one in asked.values()),
        *SENT.values(),
    ]
    schemas, shared = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    requests, answers, sent = (
        schemas[: len(asked)],
        schemas[len(asked) : 2 * len(asked)],
        schemas[2 * len(asked) :],
    )
    pairs = zip(asked, requests, answers, strict=True)
    whole = {
        "questions": {name: {"request": q, "answer": a} for name, q, a in pairs},
        "sent": dict(zip(SENT, sent, strict=True)),
        "components": {"schemas": shared},
    }
    as_written: Json = msgspec.json.decode(msgspec.json.encode(whole))
    return as_written


def released() -> Json:
    whole: Json = msgspec.json.decode(RELEASED.read_bytes())
    return whole


def breaks(before: Json, after: Json) -> list[str]:
    """One line each: where, and what. Empty when each side takes whatever the other one says."""
    found: list[str] = []
    for name, old in before["questions"].items():
        if name not in after["questions"]:
            found.append(f"{name}: nobody answers it any more")
            continue
        new = after["questions"][name]
        found += _both_ways(name, old["request"], new["request"], before, after)
        found += _both_ways(f"{name} answer", old["answer"], new["answer"], before, after)
    for name, schema in before["sent"].items():
        if name not in after["sent"]:
            found.append(f"{name}: nobody reads it any more")
        else:
            found += _both_ways(name, schema, after["sent"][name], before, after)
    return list(dict.fromkeys(found))


def _both_ways(where: str, old: Json, new: Json, before: Json, after: Json) -> Iterator[str]:
    """What the one version writes is taken by the other: written by the released one and read by
    this one, and written by this one and read by the released one."""
    for line in Comparison(before, after, "request").breaks(old, new, where):
        if not _harmless(line):
            yield line
    for line in Comparison(after, before, "request").breaks(new, old, where):
        if not _harmless(line):
            yield f"{line} (by the released version)"


def _harmless(line: str) -> bool:
    """A field that the reader doesn't know is passed over; one that it can't do without, but no
    longer gets, is another line. A default is the reader's own affair."""
    return line.endswith(" was removed") or ": its default changed " in line


def told(found: list[str]) -> str:
    return "\n".join([ADVICE, *(f"- {line}" for line in found)])


def main(arguments: list[str]) -> str | None:
    """What went wrong, if anything did."""
    if unknown := set(arguments) - {REPLACE}:
        return f"unknown: {' '.join(sorted(unknown))}; there is only {REPLACE}"
    whole = current()
    if RELEASED.exists() and REPLACE not in arguments and (found := breaks(released(), whole)):
        return told(found)
    RELEASED.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
    print(f"{RELEASED.relative_to(Path.cwd())}: {len(whole['questions'])} questions")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
