"""The OpenAPI 3.1 document, made from the declarations of the routes. Pure.

Schemas are msgspec's own of the very types that requests are decoded into and answers encoded
from; what every operation of a kind refuses is added here, so that no route can forget it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from libs.schemas import Json, fields_of, schemas_of
from services.gateway.http.errors import ErrorEnvelope
from services.gateway.http.event_stream import EVENT_STREAM
from services.gateway.http.headers import HEADERS
from services.gateway.http.operation import FormBody, Operation
from services.gateway.http.problems import PROBLEMS, Code

VERSION = "1.2.0"
"""Of the contract: the middle number grows with what is added, the last with its wording."""

OR_SLUG = {"model_id": ", or its slug in the catalogue"}
"""Path parameters that are not always a UUID, and what else they may be."""

JSON = "application/json"
FORM = "multipart/form-data"

TAGS: Mapping[str, str] = {
    "Runs": "One request uploads, validates, prices and queues a fine-tune, paid from the balance.",
    "Jobs": "Grow, tune and shrink models, step by step: price, submit, watch, fetch.",
    "Models": "The catalogue of base models, and the account's own.",
    "Datasets": "Data sets that any number of jobs can use.",
    "Training": "Hyperparameters to begin with.",
    "Billing": "The balance, what was spent, and what can be bought.",
    "Webhooks": "URLs of yours that are told what happens to jobs, as Standard Webhooks has it.",
    "Account": "The account, its settings and its API keys.",
    "Platform": "Whether it is there.",
}

INFO: Json = {
    "title": "Tuneyard",
    "version": VERSION,
    "summary": "A fine-tuning platform that anyone can run.",
    "description": (
        "Two surfaces over one job log: the Runs API below `/api/v1`, the Jobs API below `/v1`."
        " Lists are newest first and take `limit` and `cursor`. Money is in integers of the"
        " smallest unit, named so. Within a version changes only add: fields, operations, codes."
    ),
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}

ERROR_EXAMPLE: Json = {
    "error": {
        "code": "not_found",
        "message": "There is no such job.",
        "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
}

IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "A value of your own, such as a UUID. The same request under the same key has its effect"
        " once, and its answer again, for 24 hours."
    ),
    # As a structured field it may also come in double quotes.
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!#-~]+$"},
}


LAST_EVENT_ID: Json = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The id of the last message that you have: those behind it are sent.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
}

ENDED_BEFORE: Json = {
    "description": "Nothing is left to come: what was sent as Last-Event-ID is the job's `done`."
}


def document(operations: Sequence[Operation], examples: Mapping[str, Json]) -> Json:
    """The whole document. ``examples`` are real ones by operation id: ``request``, ``answer``."""
    schema_of, components = schemas_of(
        [one.body for one in operations if one.body is not None],
        [
            ErrorEnvelope,
            *(one.answer for one in operations),
            *(data for one in operations for data in (one.events or {}).values()),
        ],
    )
    components["ErrorEnvelope"]["examples"] = [ERROR_EXAMPLE]
    paths: dict[str, Json] = {}
    for one in operations:
        item = _operation(one, operations, schema_of, examples.get(one.id, {}))
        paths.setdefault(one.path, {})[one.method.lower()] = item
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": dict(HEADERS),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": (
                        "An API key (`tuneyard_…`); on `/v1` also an OIDC ID token of an issuer"
                        " that the operator trusts."
                    ),
                }
            },
        },
        "x-error-codes": {
            code: {"status": problem.status, "meaning": problem.meaning}
            for code, problem in PROBLEMS.items()
        },
    }


def _operation(
    one: Operation, operations: Sequence[Operation], schema_of: Mapping[int, Json], example: Json
) -> Json:
    found: Json = {
        "operationId": one.id,
        "summary": one.summary,
        "tags": [one.tag],
        "responses": _responses(one, operations, schema_of, example),
    }
    if parameters := _parameters(one):
        found["parameters"] = parameters
    if one.description:
        found["description"] = one.description
    if one.scope is None:
        found["security"] = []
    else:
        found["security"] = [{"bearer": [one.scope]}]
    if one.body is not None:
        found["requestBody"] = _body(
            JSON, schema_of[id(one.body)], example, required=not one.body_optional
        )
    if one.form is not None:
        found["requestBody"] = _body(FORM, _form_schema(one.form), {})
    if one.sunset is not None:
        found["deprecated"] = True
    return found


def _parameters(one: Operation) -> list[Json]:
    found: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": f"The {name.removesuffix('_id')}'s id{OR_SLUG.get(name, '')}.",
            "schema": {"type": "string", "minLength": 1}
            if name in OR_SLUG
            else {"type": "string", "format": "uuid"},
        }
        for name in one.parameters
    ]
    if one.query is not None:
        properties, required = fields_of(one.query)
        for name, schema in properties.items():
            told = {"description": schema.pop("description")} if "description" in schema else {}
            where = {"name": name, "in": "query", "required": name in required}
            found.append(where | told | {"schema": schema})
    if one.idempotency_key:
        found.append(IDEMPOTENCY_KEY)
    if one.events is not None:
        found.append(LAST_EVENT_ID)
    return found


def _body(media_type: str, schema: Json, example: Json, *, required: bool = True) -> Json:
    content: Json = {"schema": schema}
    if "request" in example:
        content["example"] = example["request"]
    return {"required": required, "content": {media_type: content}}


def _form_schema(form: FormBody) -> Json:
    """The file of a form and its text fields, in the place where they are used."""
    properties, required = fields_of(form.fields)
    # OpenAPI 3.1 would have the media type alone; generators still look for the format.
    file = {
        "type": "string",
        "format": "binary",
        "contentMediaType": "application/octet-stream",
        "description": "JSON lines, UTF-8, at most 600 MB.",
    }
    return {
        "type": "object",
        "properties": {form.file: file} | properties,
        "required": [form.file, *required],
        "additionalProperties": False,
    }


def refusals_of(one: Operation) -> list[Code]:
    """Every code that the operation may answer with, by status."""
    codes: set[Code] = {"malformed_request", *one.refuses}
    if one.scope is not None:
        codes |= {"insufficient_scope", "rate_limited", "service_unavailable", "invalid_api_key"}
        if one.path.startswith("/v1/"):
            codes.add("invalid_token")
    if one.parameters:
        codes.add("not_found")
    if one.query or one.body is not None or one.form or one.idempotency_key:
        codes.add("validation_failed")
    if one.body is not None:
        codes.add("payload_too_large")
    return sorted(codes, key=lambda code: (PROBLEMS[code].status, code))


def _responses(
    one: Operation, operations: Sequence[Operation], schema_of: Mapping[int, Json], example: Json
) -> Json:
    content: Json = {"schema": schema_of[id(one.answer)]}
    if "answer" in example:
        content["example"] = example["answer"]
    media_type = JSON
    if one.events is not None:
        media_type, content = EVENT_STREAM, _event_stream(one.events, schema_of)
    good: Json = {
        "description": one.summary + ".",
        "headers": _headers(one, one.status),
        "content": {media_type: content},
    }
    links = {
        f"{other.id}By{name.title().replace('_', '')}": {
            "operationId": other.id,
            "parameters": {name: f"$response.body#{pointer}"},
        }
        for name, pointer in one.links.items()
        for other in operations
        if other.parameters == [name] and other.events is None
    }
    if links:
        good["links"] = links
    found = {str(one.status): good}
    if one.events is not None and one.parameters:
        found["204"] = ENDED_BEFORE | {"headers": _headers(one, 204)}
    codes = refusals_of(one)
    for status in sorted({PROBLEMS[code].status for code in codes}):
        these = [code for code in codes if PROBLEMS[code].status == status]
        found[str(status)] = {
            "description": "\n".join(f"- `{code}`: {PROBLEMS[code].meaning}" for code in these),
            "headers": _headers(one, status),
            "content": {JSON: {"schema": schema_of[id(ErrorEnvelope)]}},
            "x-error-codes": these,
        }
    return found


def _event_stream(events: Mapping[str, Any], schema_of: Mapping[int, Json]) -> Json:
    """OpenAPI 3.1 has no words for the parts of a stream."""
    return {
        "schema": {
            "type": "string",
            "description": "Server-sent events, each with `id`, `event` and `data`: an object that"
            " is described in `x-events` under the event's name.",
        },
        "x-events": {name: schema_of[id(data)] for name, data in events.items()},
    }


def _headers(one: Operation, status: int) -> Json:
    names = ["X-Request-Id"]
    if status != PROBLEMS["malformed_request"].status:
        names.append("Traceparent")
        if one.scope is not None and status != PROBLEMS["invalid_api_key"].status:
            names += ["RateLimit", "RateLimit-Policy"]
    if status in (429, 503) or (status == 409 and "idempotency_in_progress" in one.refuses):
        names.append("Retry-After")
    if status in (401, 403):
        names.append("WWW-Authenticate")
    if status == one.status:
        names += one.headers
        if "idempotency_conflict" in one.refuses:
            names.append("Idempotency-Replayed")
        if one.sunset is not None:
            names += ["Deprecation", "Sunset"]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
