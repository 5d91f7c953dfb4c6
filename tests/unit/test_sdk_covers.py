"""Everything that the platform offers has its counterpart in the SDK, and what it says is read."""

import inspect
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.openapi_release import current, released
from tests.support.sdk_coverage import methods, missing
from tests.support.sdk_types import TARGET, modules, operations
from tuneyard import AsyncTuneyard, Tuneyard, errors, types
from tuneyard._effects import Response
from tuneyard._method import Endpoint, Resource

Json = dict[str, Any]

DOCUMENT: Json = current()
EXAMPLES = {
    where: content["example"]
    for where, one in operations(DOCUMENT)
    for status, answer in one["responses"].items()
    if status < "300"
    for kind, content in answer.get("content", {}).items()
    if kind == "application/json" and "example" in content
}
MADE_ANEW = "make the types anew: just sdk"


@pytest.mark.parametrize("document", [DOCUMENT, released()], ids=["live", "released"])
def test_every_operation_parameter_and_field_has_a_counterpart(document: Json) -> None:
    assert missing(document) == [], MADE_ANEW


def test_no_method_is_of_an_operation_that_there_is_not() -> None:
    assert set(methods()) == {where for where, _ in operations(DOCUMENT)}


def test_the_types_are_those_of_the_document() -> None:
    made = modules(DOCUMENT)
    by_hand = {"page.py", "streaming.py"}
    assert {path.name for path in TARGET.glob("*.py")} == set(made) | by_hand, MADE_ANEW
    for name, text in made.items():
        assert (TARGET / name).read_text() == text, f"{name}: {MADE_ANEW}"


def changed(*path: Any, to: Any) -> Json:
    document = deepcopy(DOCUMENT)
    part: Any = document
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = to
    return document


LIST = ("paths", "/v1/jobs", "get")
PARAMETER = {"name": "status", "in": "query", "required": False, "schema": {"type": "string"}}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (
            changed("paths", "/v1/new", to={"get": DOCUMENT["paths"]["/v1/me"]["get"]}),
            "GET /v1/new: there is no method for it",
        ),
        (
            changed(*LIST, "parameters", to=[PARAMETER]),
            "GET /v1/jobs: its method takes no status",
        ),
        (
            changed("components", "schemas", "Job", "properties", "region", to={"type": "string"}),
            "GET /v1/jobs/{job_id}: Job has no field region",
        ),
        (
            changed(
                *("components", "schemas", "ContractRequest", "properties", "region"),
                to={"type": "string"},
            ),
            "POST /v1/jobs: its method takes no region",
        ),
        (
            changed(
                *("components", "schemas", "TrainHyperparams", "properties", "region"),
                to={"type": "string"},
            ),
            "TrainHyperparams has no field region",
        ),
    ],
)
def test_what_is_added_to_the_platform_is_missed_in_the_sdk(document: Json, told: str) -> None:
    assert told in missing(document)


@pytest.mark.parametrize("where", EXAMPLES)
def test_an_example_of_each_answer_is_read_whole(where: str) -> None:
    """The document's examples were recorded from a platform."""
    method = methods()[where]
    assert isinstance(method, Endpoint)
    given = {
        name: "x"
        for name, of in inspect.signature(method.describe).parameters.items()
        if of.default is inspect.Parameter.empty and name != "self"
    }
    if "file" in given or "dataset" in given:
        given |= {name: b"" for name in ("file", "dataset") if name in given}
    call = method.describe(None, **given)
    read = method.reader(call)(Response(200, {}, msgspec.json.encode(EXAMPLES[where])))
    said = msgspec.to_builtins(read)
    example = EXAMPLES[where]
    if where == "GET /api/v1/runs/{run_id}":
        example = example["run"]  # an envelope of one
    if where == "GET /v1/jobs/{job_id}/events":
        said = said["data"]
    assert kept(example, said) == []


def kept(example: Any, said: Any, at: str = "$") -> list[str]:
    """Where something of the example was lost."""
    if isinstance(example, dict):
        return [
            line
            for name, of in example.items()
            for line in (
                kept(of, said[name], f"{at}.{name}") if name in said else [f"{at}.{name} is lost"]
            )
        ]
    if isinstance(example, list):
        if len(example) != len(said):
            return [f"{at} has another length"]
        return [
            line
            for n, (a, b) in enumerate(zip(example, said, strict=True))
            for line in kept(a, b, f"{at}[{n}]")
        ]
    same = example == said or str(said).removesuffix("Z") == str(example).removesuffix("Z")
    return [] if same else [f"{at}: {example!r} became {said!r}"]


def test_what_an_older_server_does_not_say_yet_is_empty() -> None:
    example = EXAMPLES["POST /v1/jobs"]
    older = {
        name: of for name, of in example.items() if of is not None and not isinstance(of, list)
    }
    job = msgspec.convert(older, types.Job)
    assert (job.recommended, job.error) == ([], None)


def test_an_error_has_all_that_the_document_says_of_errors() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert set(errors._Error.__struct_fields__) == set(schemas["Error"]["properties"])
    assert set(errors._Envelope.__struct_fields__) == set(schemas["ErrorEnvelope"]["properties"])


def test_every_refusal_has_an_error_of_its_own_status() -> None:
    for code, said in DOCUMENT["x-error-codes"].items():
        body = msgspec.json.encode({"error": {"code": code, "message": "", "request_id": "r"}})
        error = errors.error_of(said["status"], {}, body, None)
        assert type(error) is not errors.APIError or said["status"] in (405,), code
        assert (error.code, error.status, error.request_id) == (code, said["status"], "r")


def test_both_clients_have_the_same_resources_and_keyword_only_methods() -> None:
    def resources(client: Any) -> dict[str, type]:
        return {name: type(of) for name, of in vars(client).items() if isinstance(of, Resource)}

    ours = resources(Tuneyard(api_key="k", base_url="http://x"))
    assert ours == resources(AsyncTuneyard(api_key="k", base_url="http://x"))
    assert {"models", "datasets", "runs", "jobs", "training", "billing"} < set(ours)
    assert {"api_keys", "webhooks", "me"} < set(ours)
    for method in methods().values():
        kinds = {
            of.kind
            for name, of in inspect.signature(method.describe).parameters.items()
            if name != "self"
        }
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY}


def test_every_type_can_be_imported_from_one_place() -> None:
    assert all(hasattr(types, name) for name in types.__all__)
    assert Path(types.__file__).parent == TARGET
