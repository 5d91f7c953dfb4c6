"""``just asyncapi``: write the interface of the job events down as the released one.

It refuses to when subscribers of the released one would break.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from libs.bus.asyncapi import document
from tests.support.schema_diff import Comparison, Json, resolved

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "docs" / "asyncapi.yaml"
GOLDEN = ROOT / "tests" / "unit" / "golden"
REPLACE = "--replace"
WIDTH = 100

ADVICE = (
    "Subscribers of the released interface (docs/asyncapi.yaml) would break. Keep the event as it"
    " was and publish a new one beside it, with the next number (job.completed.v2); a new field"
    " has a default."
)


def current() -> Json:
    """With the golden files as examples: each is an event as its first version was stored."""
    files = sorted(GOLDEN.glob("*.json"))
    return document({file.stem: msgspec.json.decode(file.read_bytes()) for file in files})


class Dumper(yaml.SafeDumper):
    """Texts of several lines are written as such."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


Dumper.add_representer(str, _text)


def written(whole: Json) -> str:
    text: str = yaml.dump(whole, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return text


def released() -> Json:
    whole: Json = yaml.safe_load(RELEASED.read_text())
    return whole


def breaks(before: Json, after: Json) -> list[str]:
    """One line each: where, and what. Empty for a change that only adds."""
    found = []
    for name, channel in before["channels"].items():
        if name not in after["channels"]:
            found.append(f"{name}: the event was removed")
        else:
            other = after["channels"][name]
            found += [f"{name}: {what}" for what in _channel(channel, other, before, after)]
    return list(dict.fromkeys(found))


def _channel(old: Json, new: Json, before: Json, after: Json) -> Iterator[str]:
    if old["address"] != new["address"]:
        yield f"its subject changed from {old['address']} to {new['address']}"
    messages: list[Any] = []
    for channel, whole in ((old, before), (new, after)):
        messages.append(resolved(channel["messages"]["event"], whole))
    if messages[0]["contentType"] != messages[1]["contentType"]:
        yield "its content type changed"
    for part in ("headers", "payload"):
        one, other = (message[part] for message in messages)
        yield from Comparison(before, after, "answer").breaks(one, other, part)


def told(found: list[str]) -> str:
    return "\n".join([ADVICE, *(f"- {line}" for line in found)])


def main(arguments: list[str]) -> str | None:
    """What went wrong, if anything did."""
    if unknown := set(arguments) - {REPLACE}:
        return f"unknown: {' '.join(sorted(unknown))}; there is only {REPLACE}"
    whole = current()
    if RELEASED.exists() and REPLACE not in arguments and (found := breaks(released(), whole)):
        return told(found)
    RELEASED.write_text(written(whole))
    print(f"{RELEASED.relative_to(Path.cwd())}: {len(whole['channels'])} events")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
