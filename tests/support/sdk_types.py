"""``just sdk``: write the SDK's types anew, from the OpenAPI document of this source tree.

What answers hold becomes a struct that takes fields and values it doesn't know; what goes into a
request's body below its top level becomes one that sends only what was set. A body's own fields
are the keyword arguments of the SDK's methods, which people write; so no structs of those.

An answer's type goes into the module of the first tag that reaches it, in the document's order of
tags, so a module needs only those before it.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

from tests.support.openapi_release import current

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "libs" / "tuneyard" / "src" / "tuneyard" / "types"
PREFIX = "#/components/schemas/"
PAGE_FIELDS = {"data", "next_cursor", "has_more"}
PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
WIDTH = 92  # of the texts within a class, of the 100 columns of a line
MADE = "Made by `just sdk` from the OpenAPI document; what is changed here by hand is lost."
REQUESTS = "requests"
# The tag of jobs has more than fits into a module.
APART = {"getJobResult": "results", "getJobMetrics": "telemetry", "getJobLogs": "telemetry"}
# Modules of the package that people write, and what they are for.
BESIDE = {
    "page": ["Page"],
    "streaming": [
        *("StateEvent", "MetricsEvent", "LogEvent", "DoneEvent", "StreamEvent", "WebhookEvent"),
    ],
}


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, text in modules(current()).items():
        (TARGET / name).write_text(text)
        print((TARGET / name).relative_to(ROOT))


def modules(document: Json) -> dict[str, str]:
    """The package's generated modules by file name, as ruff formats them."""
    return {name: _formatted(text) for name, text in Types(document).modules().items()}


def page_of(name: str, schemas: Json) -> str | None:
    """What a list consists of: ``Job`` of ``JobPage``, which the SDK calls ``Page[Job]``."""
    properties = schemas[name].get("properties", {})
    if set(properties) != PAGE_FIELDS:
        return None
    return _name(properties["data"]["items"]["$ref"])


def requested(document: Json) -> set[str]:
    """The schemas within requests' bodies, themselves not bodies."""
    tops = {name for _, one in operations(document) for name in _body_names(one)}
    schemas = document["components"]["schemas"]
    return {name for top in tops for name in _reached(schemas[top], schemas)} - tops


def answered(one: Json, document: Json) -> list[str]:
    """The schemas within an operation's hoped-for answer, each before what it needs."""
    found = [_references(answer) for status, answer in one["responses"].items() if status < "300"]
    schemas = document["components"]["schemas"]
    names = [name for tops in found for name in tops]
    return list(dict.fromkeys(each for n in names for each in (n, *_reached(schemas[n], schemas))))


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, items in document["paths"].items():
        for method, one in items.items():
            yield f"{method.upper()} {path}", one


class Types:
    """The types of a document, and the module of each."""

    def __init__(self, document: Json) -> None:
        self.schemas: Json = document["components"]["schemas"]
        self.requested = requested(document)
        self.tags = _tags(document)
        self.module: dict[str, str] = {}
        for name in self.schemas:
            if name in self.requested:
                self.module[name] = REQUESTS
        for tag in [each["name"] for each in document["tags"]]:
            for _, one in operations(document):
                if tag in one["tags"]:
                    self._place(one, APART.get(one["operationId"], tag.lower()), document)

    def _place(self, one: Json, module: str, document: Json) -> None:
        for name in answered(one, document):
            if page_of(name, self.schemas) is None:
                self.module.setdefault(name, module)

    def modules(self) -> dict[str, str]:
        names = list(dict.fromkeys(self.module.values()))
        if taken := set(BESIDE) & set(names):
            raise ValueError(f"a tag is called like a module that people write: {taken}")
        texts = {f"{name}.py": self._module(name) for name in names}
        return texts | {"__init__.py": _init({name: self._of(name) for name in names})}

    def _of(self, module: str) -> list[str]:
        return [name for name in self.schemas if self.module.get(name) == module]

    def _module(self, module: str) -> str:
        own = self._of(module)
        needed: dict[str, set[str]] = {}
        for name in own:
            for other in _references(self.schemas[name]):
                if self.module[other] != module:
                    needed.setdefault(self.module[other], set()).add(other)
        # A class needs those that it names to stand above it.
        classes = [self._class(name) for name in _sorted(own, self.schemas)]
        imports = [
            f"from tuneyard.types.{other} import {', '.join(sorted(names))}"
            for other, names in sorted(needed.items())
        ]
        body = "\n\n\n".join(classes)
        return f'"""{MADE}"""\n\n{_standard_imports(body)}{chr(10).join(imports)}\n\n\n{body}\n'

    def _class(self, name: str) -> str:
        schema = self.schemas[name]
        config = "frozen=True, kw_only=True"
        lines = []
        tagged = self.tags.get(name)
        if tagged is not None:
            field, value = tagged
            config += f', tag_field="{field}", tag="{value}"'
            lines.append(f'    {field}: ClassVar[str] = "{value}"')
        required = set(schema.get("required", ()))
        fields = [
            (field, of)
            for field, of in schema["properties"].items()
            if tagged is None or field != tagged[0]
        ]
        for field, of in fields:
            lines += self._field(field, of, name in self.requested, field in required)
        doc = _docstring(schema.get("description", ""), "    ")
        return f"class {name}(Struct, {config}):\n{doc}\n\n" + "\n".join(lines)

    def _field(self, field: str, of: Json, sent: bool, required: bool) -> list[str]:
        kind = self.annotation(of, closed=sent)
        if sent:
            nullable = kind.endswith(" | None")
            kind = kind.removesuffix(" | None") + ("" if required else " | UnsetType")
            kind += " | None" if nullable else ""
            end = "" if required else " = UNSET"
        else:
            end = "" if required else " = None"
            if _nullable(of):
                end = " = None"
            elif end:
                kind += " | None"
            elif of.get("type") == "array":
                end = " = []"  # an older server may not have it yet
        lines = [f"    {field}: {kind}{end}"]
        if said := _said(of, sent):
            lines.append(_docstring(said, "    "))
        return lines

    def annotation(self, of: Json, *, closed: bool) -> str:
        """``closed``: only the known values of an enumeration; else any text."""
        if "$ref" in of:
            return _name(of["$ref"])
        if "anyOf" in of:
            return " | ".join(self.annotation(each, closed=closed) for each in of["anyOf"])
        if closed and "enum" in of:
            return f"Literal[{', '.join(repr(value) for value in of['enum'])}]"
        match of.get("type"):
            case "null":
                return "None"
            case "array":
                return f"list[{self.annotation(of['items'], closed=closed)}]"
            case "object":
                values = of.get("additionalProperties")
                inner = self.annotation(values, closed=closed) if values else "Any"
                return f"dict[str, {inner}]"
            case "string" if of.get("format") == "date-time":
                return "datetime"
            case None:
                return "Any"
            case plain:
                return PLAIN[plain]


def _said(of: Json, sent: bool) -> str:
    text: str = of.get("description", "")
    values = [value for each in (of, *of.get("anyOf", ())) for value in each.get("enum", ())]
    if values and not sent:
        known = ", ".join(f"`{value}`" for value in values)
        text += f" Known are {known}; a newer server may say others."
    if sent and of.get("default") is not None and of["default"] != {}:
        text += f" Left out: {of['default']}."
    return text.strip()


def _nullable(of: Json) -> bool:
    return {"type": "null"} in of.get("anyOf", ())


def _body_names(one: Json) -> list[str]:
    return _references(one.get("requestBody", {}).get("content", {}).get("application/json", {}))


def _tags(document: Json) -> dict[str, tuple[str, str]]:
    """Of the answers that are told apart by a field: its name, and its value for each."""
    found = {}
    for _, one in operations(document):
        for answer in one["responses"].values():
            for content in answer.get("content", {}).values():
                of = content["schema"].get("discriminator")
                for value, reference in of["mapping"].items() if of else ():
                    found[_name(reference)] = (of["propertyName"], value)
    return found


def _references(value: Any) -> list[str]:
    """Names of schemas within a part of the document; not those within theirs."""
    if isinstance(value, list):
        return list(dict.fromkeys(name for each in value for name in _references(each)))
    if not isinstance(value, dict):
        return []
    own = [_name(value["$ref"])] if value.get("$ref", "").startswith(PREFIX) else []
    inner = [value[key] for key in value if key not in ("discriminator", "links", "example")]
    return list(dict.fromkeys(own + _references(inner)))


def _reached(schema: Json, schemas: Json) -> list[str]:
    """Every schema below one, in the order in which it is met."""
    found: list[str] = []
    left = _references(schema)
    while left:
        name = left.pop(0)
        if name not in found:
            found.append(name)
            left += _references(schemas[name])
    return found


def _sorted(names: list[str], schemas: Json) -> list[str]:
    done: list[str] = []

    def add(name: str) -> None:
        for other in _references(schemas[name]):
            if other in names and other not in done:
                add(other)
        if name not in done:
            done.append(name)

    for name in names:
        add(name)
    return done


def _name(reference: str) -> str:
    return reference.removeprefix(PREFIX)


def _docstring(text: str, indent: str) -> str:
    paragraphs = [
        "\n".join(wrap(" ".join(part.split()), WIDTH, initial_indent="", subsequent_indent=""))
        for part in text.split("\n\n")
    ]
    whole = "\n\n".join(paragraphs).replace("\\", "\\\\").replace("\n", f"\n{indent}")
    closing = f"\n{indent}" if "\n" in whole else ""
    return f'{indent}"""{whole}{closing}"""'.replace(f"\n{indent}\n", "\n\n")


def _standard_imports(body: str) -> str:
    lines = []
    if "datetime" in body:
        lines.append("from datetime import datetime")
    typing = [name for name in ("Any", "ClassVar", "Literal") if f"{name}" in body]
    if typing:
        lines.append(f"from typing import {', '.join(typing)}")
    lines.append("")
    msgspec = ["UNSET", "Struct", "UnsetType"] if "UNSET" in body else ["Struct"]
    lines.append(f"from msgspec import {', '.join(msgspec)}")
    return "\n".join(lines) + "\n\n"


def _init(names: dict[str, list[str]]) -> str:
    imports = "\n".join(
        f"from tuneyard.types.{module} import {', '.join(sorted(own))}"
        for module, own in sorted({**names, **BESIDE}.items())
        if own
    )
    everything = sorted(name for own in (names | BESIDE).values() for name in own)
    listed = ", ".join(f'"{name}"' for name in everything)
    title = f'"""What requests and answers hold.\n\n{MADE}\n"""'
    return f"{title}\n\n{imports}\n\n__all__ = [{listed},]\n"


def _formatted(text: str) -> str:
    for command in (("check", "--fix", "--select", "I,F401"), ("format",)):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "-q", "--stdin-filename", "types/x.py", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=TARGET.parents[2],
        ).stdout
    return text


if __name__ == "__main__":
    main()
