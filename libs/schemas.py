"""JSON schemas of the structs that requests are decoded into and answers encoded from. Pure.

msgspec makes them; this adds what it leaves out and a client's author needs: formats, the fields
that an answer always has, and names without the house's habits.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import cleandoc
from typing import Any, get_origin

import msgspec
import msgspec.inspect as mi

Json = dict[str, Any]

PREFIX = "#/components/schemas/"
FORMATS = {"integer": "int64", "number": "double"}
NULL = {"type": "null"}


def schemas_of(bodies: Sequence[Any], answers: Sequence[Any]) -> tuple[Mapping[int, Json], Json]:
    """The schema of each type by its ``id``, and the components that they refer to."""
    taken, given = _structs(bodies), _structs(answers)
    types = list({id(one): one for one in (*bodies, *answers, *taken, *given)}.values())
    shown, components = msgspec.json.schema_components(types, ref_template=PREFIX + "{name}")
    schema_of = dict(zip(map(id, types), shown, strict=True))
    for cls, info in (given | taken).items():
        component = components[schema_of[id(cls)]["$ref"].removeprefix(PREFIX)]
        _date(info, component)
        if cls not in taken:
            _promise(info, component)
    names = _public_names(components)
    return (
        {key: _finished(schema, names) for key, schema in schema_of.items()},
        {names[name]: _finished(schema, names) for name, schema in components.items()},
    )


def fields_of(struct: type[msgspec.Struct]) -> tuple[Json, list[str]]:
    """The properties of a query or a form, where what is not sent is null, and nothing sent is;
    and the names of those that are required."""
    (shown,), components = msgspec.json.schema_components([struct], ref_template=PREFIX + "{name}")
    schema = components[shown["$ref"].removeprefix(PREFIX)]
    _date(_structs([struct])[struct], schema)
    properties = _finished(schema, {})["properties"]
    return {name: _without_null(of) for name, of in properties.items()}, schema["required"]


def _structs(types: Iterable[Any]) -> dict[Any, mi.StructType]:
    """Every struct within the types."""
    found: dict[Any, mi.StructType] = {}
    left: list[mi.Type] = list(mi.multi_type_info(types))
    while left:
        info = left.pop()
        if isinstance(info, mi.StructType):
            if info.cls in found:
                continue
            found[info.cls] = info
            left += [field.type for field in info.fields]
        left += _parts(info)
    return found


def _parts(info: mi.Type) -> Iterator[mi.Type]:
    match info:
        case mi.Metadata():
            yield info.type
        case mi.UnionType():
            yield from info.types
        case mi.DictType():
            yield info.value_type
        case mi.TupleType():
            yield from info.item_types
        case mi.CollectionType():
            yield info.item_type
        case _:
            return


def _date(info: mi.StructType, schema: Json) -> None:
    """msgspec marks a time only where its type says that it has a zone; ours all are UTC."""

    def timed(one: mi.Type) -> bool:
        return isinstance(one, mi.DateTimeType) or any(map(timed, _parts(one)))

    def mark(of: Any) -> None:
        if isinstance(of, list):
            for each in of:
                mark(each)
        elif isinstance(of, dict):
            if of.get("type") == "string":
                of.setdefault("format", "date-time")
            for key in ("anyOf", "items", "additionalProperties"):
                mark(of.get(key))

    for field in info.fields:
        if timed(field.type):
            mark(schema["properties"][field.encode_name])


def _promise(info: mi.StructType, schema: Json) -> None:
    """An answer has all of its fields, those with defaults too; and how long a text may be is the
    business of who takes it, not a promise of who gives it."""
    always = set(schema["required"])
    struct = get_origin(info.cls) or info.cls  # of Page[Job] it is Page
    if not struct.__struct_config__.omit_defaults:
        # A field that may be unset is neither required nor has it a default.
        always |= {
            field.encode_name
            for field in info.fields
            if (field.default, field.default_factory) != (msgspec.NODEFAULT, msgspec.NODEFAULT)
        }
    schema["required"] = [name for name in schema["properties"] if name in always]
    for of in schema["properties"].values():
        of.pop("default", None)
        for option in (of, *of.get("anyOf", ())):
            option.pop("maxLength", None)


def _public_names(components: Json) -> Mapping[str, str]:
    """To a reader, msgspec's ``Page_JobView_`` is a ``JobPage``, and a ``JobView`` a ``Job``."""
    found: dict[str, str] = {}
    for name in components:
        page = re.fullmatch(r"Page_(\w+)_", name)
        whole = page[1] if page else name
        found[name] = whole.removesuffix("View") + ("Page" if page else "")
    if len(set(found.values())) < len(found):
        raise ValueError(f"two schemas would have one name, among {', '.join(sorted(found))}")
    return found


def _finished(schema: Json, names: Mapping[str, str]) -> Json:
    """With formats and names, and reStructuredText's ``literals`` as Markdown's."""
    done = {name: of for name, of in schema.items() if name != "title"}
    if "$ref" in done:
        done["$ref"] = _named(done["$ref"], names)
    if "description" in done:
        done["description"] = cleandoc(done["description"]).replace("``", "`")
    if done.get("type") in FORMATS:
        done.setdefault("format", FORMATS[done["type"]])
    if "discriminator" in done:
        of = done.pop("discriminator")
        mapping = {tag: _named(ref, names) for tag, ref in of["mapping"].items()}
        done["oneOf"] = done.pop("anyOf")
        done["discriminator"] = of | {"mapping": mapping}
    if "enum" in done and "type" not in done:
        texts = [value for value in done.pop("enum") if value is not None]
        nullable = len(texts) < len(schema["enum"])
        one = {"type": "string", "enum": texts}
        done |= {"anyOf": [one, NULL]} if nullable else one
    for key in ("anyOf", "oneOf", "prefixItems"):
        if key in done:
            done[key] = [_finished(each, names) for each in done[key]]
    if "description" not in done:
        # Of a value that may be null, msgspec describes the value, where few readers look.
        for option in done.get("anyOf", ()):
            if NULL in done["anyOf"] and "description" in option:
                done["description"] = option.pop("description")
    for key in ("items", "additionalProperties"):
        if isinstance(done.get(key), dict):
            done[key] = _finished(done[key], names)
    if "properties" in done:
        done["properties"] = {name: _finished(of, names) for name, of in done["properties"].items()}
    return done


def _named(reference: str, names: Mapping[str, str]) -> str:
    name = reference.removeprefix(PREFIX)
    return PREFIX + names.get(name, name)


def _without_null(schema: Json) -> Json:
    value = {name: of for name, of in schema.items() if not (name == "default" and of is None)}
    if "anyOf" in value:
        kept = [each for each in value.pop("anyOf") if each != NULL]
        value |= kept[0] if len(kept) == 1 else {"anyOf": kept}
    return value
