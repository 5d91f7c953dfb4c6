"""The OpenAPI document is valid, whole, and says what a client's author needs."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

from services.gateway.app import ROUTES
from services.gateway.http.headers import HEADERS
from services.gateway.http.problems import PROBLEMS
from tests.support.openapi_release import current
from tests.support.schema_diff import resolved

Json = dict[str, Any]

DOCUMENT: Json = current()
SCHEMAS: Json = DOCUMENT["components"]["schemas"]
UNTOLD = {
    *{"GET /docs", "GET /docs/{name}", "GET /billing/returned"},  # for people
    "POST /v1/webhooks/stripe",  # of Stripe's contract, not of ours
}
SCOPES = {"read", "write", "billing", "admin"}


def operations() -> Iterator[tuple[str, Json]]:
    """By method and path."""
    for path, items in DOCUMENT["paths"].items():
        for method, one in items.items():
            yield f"{method.upper()} {path}", one


def within(value: Any) -> Iterator[Json]:
    """Every object within a part of the document, itself first."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from within(each)
    elif isinstance(value, list):
        for each in value:
            yield from within(each)


def references(value: Any) -> set[str]:
    return {one["$ref"] for one in within(value) if isinstance(one.get("$ref"), str)}


def properties() -> Iterator[tuple[str, Json]]:
    for name, schema in SCHEMAS.items():
        for field, of in schema["properties"].items():
            yield f"{name}.{field}", of


def test_it_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_every_route_but_those_for_people_and_for_stripe_is_in_it() -> None:
    routed = {
        f"{method} {path.replace(':str', '')}"
        for handler in ROUTES
        for path in handler.paths
        for method in handler.http_methods
    }
    told = {where for where, _ in operations()}
    assert routed - told == UNTOLD
    assert told <= routed


def test_every_operation_has_its_own_id_a_summary_and_a_known_tag() -> None:
    ids = Counter(one["operationId"] for _, one in operations())
    assert [id for id, times in ids.items() if times > 1] == []
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for where, one in operations():
        assert one["summary"], where
        assert len(one["tags"]) == 1, where
        assert set(one["tags"]) <= tags, where


def test_every_operation_names_the_scope_that_it_needs_or_needs_no_key() -> None:
    open_to_all = set()
    for where, one in operations():
        if not one["security"]:
            open_to_all.add(where)
            continue
        ((scheme, scopes),) = one["security"][0].items()
        assert (scheme, len(scopes)) == ("bearer", 1), where
        assert set(scopes) <= SCOPES, where
    assert open_to_all == {"GET /v1/healthz", "GET /v1/readyz", "GET /openapi.json"}


def test_every_success_has_a_schema() -> None:
    for where, one in operations():
        (good,) = [of for of in one["responses"].values() if "x-error-codes" not in of][:1]
        (media,) = good["content"].values()
        assert media["schema"], where


def test_a_stream_says_what_each_of_its_events_holds() -> None:
    for path in ("/v1/stream", "/v1/jobs/{job_id}/stream"):
        one = DOCUMENT["paths"][path]["get"]
        assert "Last-Event-ID" in [each["name"] for each in one["parameters"]]
        events = one["responses"]["200"]["content"]["text/event-stream"]["x-events"]
        assert set(events) == {"state", "metrics", "log", "done"}
        assert ("204" in one["responses"]) == ("{job_id}" in path)
        for schema in events.values():
            assert schema["$ref"].rpartition("/")[2] in DOCUMENT["components"]["schemas"]


def test_every_refusal_is_the_envelope_with_its_codes() -> None:
    for where, one in operations():
        refusals = {status: said for status, said in one["responses"].items() if status >= "300"}
        assert "400" in refusals, where
        for status, said in refusals.items():
            schema = said["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorEnvelope"}, (where, status)
            for code in said["x-error-codes"]:
                assert PROBLEMS[code].status == int(status), (where, code)
                assert code in said["description"], (where, code)
        assert "500" not in refusals, where
        if one["security"]:
            assert {"401", "403", "429", "503"} <= set(refusals), where
        if "parameters" in one and any(each["in"] == "path" for each in one["parameters"]):
            assert "404" in refusals, where
        if "requestBody" in one:
            assert "422" in refusals, where


def test_every_error_code_is_listed_with_its_status_and_meaning() -> None:
    assert set(DOCUMENT["x-error-codes"]) == set(PROBLEMS)
    for code, problem in DOCUMENT["x-error-codes"].items():
        assert problem["status"] == PROBLEMS[code].status
        assert problem["meaning"]


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        assert resolved({"$ref": reference}, DOCUMENT), reference


def test_nothing_lies_in_the_components_that_nobody_uses() -> None:
    reached: set[str] = set()
    left = references(DOCUMENT["paths"])
    while left:
        reached |= left
        left = {
            further
            for reference in left
            for further in references(resolved({"$ref": reference}, DOCUMENT))
        } - reached
    unused = {f"#/components/schemas/{name}" for name in SCHEMAS} - reached
    assert not unused
    lent = {f"#/components/headers/{name}" for name in HEADERS} - reached
    # These two come with the first operation that is deprecated.
    assert lent <= {f"#/components/headers/{name}" for name in ("Deprecation", "Sunset")}


def test_every_link_leads_to_an_operation_by_a_parameter_and_a_field_that_exist() -> None:
    by_id = {one["operationId"]: one for _, one in operations()}
    links = 0
    for where, one in operations():
        for answer in one["responses"].values():
            for name, link in answer.get("links", {}).items():
                links += 1
                target = by_id[link["operationId"]]
                ((parameter, value),) = link["parameters"].items()
                assert parameter in [each["name"] for each in target["parameters"]], (where, name)
                schema = answer["content"]["application/json"]["schema"]
                assert follow(schema, value.removeprefix("$response.body#/")), (where, name)
    assert links


def follow(schema: Json, pointer: str) -> Json:
    for step in pointer.split("/"):
        whole = resolved(schema, DOCUMENT)
        schema = whole["items"] if step.isdigit() else whole["properties"][step]
    return resolved(schema, DOCUMENT)


def test_every_parameter_and_schema_is_described() -> None:
    for where, one in operations():
        for parameter in one.get("parameters", ()):
            assert parameter["description"], (where, parameter["name"])
    assert [name for name, schema in SCHEMAS.items() if not schema.get("description")] == []


def test_descriptions_are_markdown_without_the_sources_indentation() -> None:
    for one in within(DOCUMENT):
        text = one.get("description")
        if isinstance(text, str):
            assert "``" not in text
            assert "\n    " not in text


def test_times_ids_and_numbers_have_their_formats() -> None:
    for name, of in properties():
        options = [of, *of.get("anyOf", ())]
        text = [option for option in options if option.get("type") == "string"]
        if name.endswith(("_at", ".ts")):
            assert [option["format"] for option in text] == ["date-time"], name
        for option in options:
            if option.get("type") in ("integer", "number"):
                assert option["format"] in ("int64", "double"), name


def test_an_enumeration_says_its_type() -> None:
    for one in within(DOCUMENT):
        if isinstance(one.get("enum"), list):
            assert one["type"] == "string", one


def test_what_an_answer_always_has_is_required_of_it() -> None:
    assert set(SCHEMAS["Job"]["required"]) == set(SCHEMAS["Job"]["properties"])
    assert set(SCHEMAS["Result"]["required"]) == set(SCHEMAS["Result"]["properties"])
    assert SCHEMAS["JobHyperparams"]["required"] == []
    assert "details" not in SCHEMAS["Error"]["required"]


def test_an_answer_may_grow_and_a_request_takes_only_what_it_knows() -> None:
    bodies = references([one.get("requestBody") for _, one in operations()])
    for reference in bodies:
        assert resolved({"$ref": reference}, DOCUMENT)["additionalProperties"] is False, reference
    answers = references([one["responses"] for _, one in operations()])
    for reference in answers - bodies:
        schema = resolved({"$ref": reference}, DOCUMENT)
        assert schema.get("additionalProperties", True) is not False, reference


def test_the_types_of_a_job_are_told_apart_by_a_field() -> None:
    post = DOCUMENT["paths"]["/v1/jobs"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert schema["discriminator"]["propertyName"] == "type"
    assert set(schema["discriminator"]["mapping"]) == {"train", "finetune", "contract"}
    assert {one["$ref"] for one in schema["oneOf"]} == set(
        schema["discriminator"]["mapping"].values()
    )
    for tag, reference in schema["discriminator"]["mapping"].items():
        request = resolved({"$ref": reference}, DOCUMENT)
        assert request["properties"]["type"]["enum"] == [tag]
        assert "type" in request["required"]


def test_a_form_sends_its_file_as_bytes() -> None:
    forms = {
        where: one["requestBody"]["content"]["multipart/form-data"]["schema"]
        for where, one in operations()
        if "multipart/form-data" in one.get("requestBody", {}).get("content", {})
    }
    assert set(forms) == {"POST /api/v1/runs", "POST /v1/datasets"}
    for where, schema in forms.items():
        files = [name for name, of in schema["properties"].items() if of.get("format") == "binary"]
        assert len(files) == 1, where
        assert set(files) <= set(schema["required"]), where


def test_it_is_the_same_each_time() -> None:
    assert json.dumps(current()) == json.dumps(DOCUMENT)
