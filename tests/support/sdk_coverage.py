"""What of an OpenAPI document has no counterpart in the SDK.

A parameter or a field of a body counts as there only if its value is found again in the request
that the SDK would send; so a method that takes it and forgets it is found out.
"""

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from tests.support.schema_diff import resolved
from tests.support.sdk_types import answered, operations, page_of, requested
from tuneyard import Tuneyard, types
from tuneyard._call import Options, Route, request_of
from tuneyard._form import Form
from tuneyard._method import Endpoint, Listing, Resource, Streaming
from tuneyard._seams import Seams

Json = dict[str, Any]
Described = Endpoint[..., Any] | Streaming[..., Any]

OPTIONS = Options("http://there", "key", None, 0, Seams())
KEYWORDS = {"Idempotency-Key": "idempotency_key", "Last-Event-ID": "last_event_id"}
PATTERNED = {"url": "https://there/x", "cursor": "7"}


@cache
def methods() -> dict[str, Described]:
    """The SDK's methods by the operation that they are."""
    client = Tuneyard(api_key="key", base_url="http://there")
    found: dict[str, Described] = {}
    for resource in vars(client).values():
        for one in vars(type(resource)).values() if isinstance(resource, Resource) else ():
            described = one.endpoint if isinstance(one, Listing) else one
            if isinstance(described, Endpoint | Streaming):
                where = f"{described.route.method} {described.route.path}"
                assert where not in found, f"{where} has two methods"
                found[where] = described
    return found


def missing(document: Json) -> list[str]:
    """One line each: where, and what."""
    found = []
    known = methods()
    for where, one in operations(document):
        if where not in known:
            found.append(f"{where}: there is no method for it")
            continue
        found += [f"{where}: {what}" for what in _unsent(known[where], one, document)]
        found += [f"{where}: {what}" for what in _unread(one, document)]
    schemas = document["components"]["schemas"]
    for name in requested(document):
        found += _fields_without(name, schemas)
    return found


def _unread(one: Json, document: Json) -> Iterator[str]:
    schemas = document["components"]["schemas"]
    for name in answered(one, document):
        if page_of(name, schemas) is None:
            yield from _fields_without(name, schemas)


def _fields_without(name: str, schemas: Json) -> Iterator[str]:
    struct = getattr(types, name, None)
    if struct is None:
        yield f"there is no type {name}"
        return
    fields = {field.encode_name for field in msgspec.structs.fields(struct)}
    fields.add(str(struct.__struct_config__.tag_field))
    for field in schemas[name].get("properties", {}):
        if field not in fields:
            yield f"{name} has no field {field}"


def _unsent(method: Described, one: Json, document: Json) -> Iterator[str]:
    """Call it with everything that there is, and look for it in the request."""
    keywords = inspect.signature(method.describe).parameters
    wanted = {each["name"]: each for each in one.get("parameters", ())}
    for content in one.get("requestBody", {}).get("content", {}).values():
        for field, (of, required) in _body_fields(content["schema"], document).items():
            wanted[field] = {"name": field, "schema": of, "required": required}
    given: Json = {}
    for name, parameter in wanted.items():
        keyword = KEYWORDS.get(name, name)
        if keyword not in keywords:
            yield f"its method takes no {keyword}"
            continue
        if keywords[keyword].kind is not inspect.Parameter.KEYWORD_ONLY:
            yield f"{keyword} is not keyword-only"
        if not parameter["required"] and _required(keywords, name):
            yield f"{keyword} must be given, and need not be"
        given[keyword] = _sample(name, resolved(parameter["schema"], document), document)
    if missing_ones := set(_all_required(keywords)) - set(given):
        yield f"its method demands {sorted(missing_ones)}, which the document does not know"
        return
    sent = _sent(method, given)
    for name in wanted:
        keyword = KEYWORDS.get(name, name)
        if keyword in given and _plain(given[keyword]) not in sent.get(name, ()):
            yield f"its method takes {keyword}, and does not send it"


def _sent(method: Described, given: Json) -> dict[str, list[Any]]:
    """What the request says, by name, wherever it stands."""
    call = method.describe(None, **given)
    route: Route = method.route
    request = request_of(OPTIONS, route, call)
    parts = urlsplit(request.url)
    found: dict[str, list[Any]] = {name: list(of) for name, of in parse_qs(parts.query).items()}
    for ours, theirs in zip(parts.path.split("/"), route.path.split("/"), strict=True):
        if theirs.startswith("{"):
            found[theirs.strip("{}")] = [ours]
    found["Idempotency-Key"] = [request.headers.get("Idempotency-Key")]
    found["Last-Event-ID"] = [call.last_event_id]
    if isinstance(request.body, Form):
        for part in b"".join(request.body.chunks()).split(f"--{request.body.boundary}".encode()):
            head, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
            name = head.partition(b'name="')[2].partition(b'"')[0].decode()
            found[name] = [value.decode(), value]
    elif request.body is not None:
        body = msgspec.json.decode(request.body)
        found |= {name: [of, _plain(of)] for name, of in body.items()}
    return found


def _plain(value: Any) -> Any:
    """As it stands in a query or a form; a structure, and bytes, as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else msgspec.to_builtins(value)


def _body_fields(schema: Json, document: Json) -> dict[str, tuple[Json, bool]]:
    """Those of each of its shapes, and whether all of them require it."""
    whole = resolved(schema, document)
    shapes = [resolved(each, document) for each in whole.get("oneOf", (whole,))]
    return {
        name: (of, all(name in each.get("required", ()) for each in shapes))
        for shape in shapes
        for name, of in shape["properties"].items()
    }


def _sample(name: str, schema: Json, document: Json) -> Any:
    """A value that says whose it is."""
    if schema.get("format") == "binary":
        return b"rows"
    if "enum" in schema:
        return schema["enum"][-1]
    for option in schema.get("anyOf", ()):
        if option != {"type": "null"}:
            return _sample(name, resolved(option, document), document)
    match schema.get("type"):
        case "integer" | "number":
            return 17
        case "boolean":
            return True
        case "array":
            return [_sample(name, resolved(schema["items"], document), document)]
        case "object":
            return {f"within {name}": 1}
    return PATTERNED.get(name, f"{name}-sample")


def _required(keywords: Any, name: str) -> bool:
    keyword = KEYWORDS.get(name, name)
    return keywords[keyword].default is inspect.Parameter.empty


def _all_required(keywords: Any) -> list[str]:
    return [
        name
        for name, of in keywords.items()
        if name != "self" and of.default is inspect.Parameter.empty
    ]
