"""The AsyncAPI document is what the code makes, valid, whole, and never less than was released."""

from copy import deepcopy
from typing import Any
from uuid import uuid4

import jsonschema
import msgspec
import pytest

from libs.bus.asyncapi import document
from libs.contracts.events import EVENT_CLASSES, decode_event, type_of
from libs.subscriber import decode_envelope
from tests.support.asyncapi_release import RELEASED, breaks, current, released, told, written
from tests.support.jobs import envelope
from tests.support.schema_diff import Json, resolved

DOCUMENT = current()

FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "document": (
        {"asyncapi", "info"},
        {"id", "servers", "defaultContentType", "channels", "operations", "components"},
    ),
    "info": (
        {"title", "version"},
        {"description", "termsOfService", "contact", "license", "tags", "externalDocs"},
    ),
    "server": (
        {"host", "protocol"},
        {"protocolVersion", "pathname", "description", "title", "security", "bindings", "tags"},
    ),
    "channel": (
        set(),
        {"address", "messages", "title", "summary", "description", "parameters", "bindings"},
    ),
    "parameter": (set(), {"enum", "default", "description", "examples", "location"}),
    "operation": (
        {"action", "channel"},
        {"title", "summary", "description", "security", "tags", "bindings", "messages", "reply"},
    ),
    "message": (
        set(),
        {
            "headers",
            "payload",
            "contentType",
            "name",
            "title",
            "summary",
            "description",
            "examples",
        },
    ),
    "example": (set(), {"headers", "payload", "name", "summary"}),
}
"""Of AsyncAPI 3.0.0: what an object must have, and what else of it we might use."""


def objects() -> list[tuple[str, str, Json]]:
    """Kind, place, object."""
    found = [("document", "", DOCUMENT), ("info", "info", DOCUMENT["info"])]
    found += [("server", name, one) for name, one in DOCUMENT["servers"].items()]
    for name, channel in DOCUMENT["channels"].items():
        found.append(("channel", name, channel))
        found += [("parameter", f"{name} {of}", p) for of, p in channel["parameters"].items()]
    found += [("operation", name, one) for name, one in DOCUMENT["operations"].items()]
    for name, message in DOCUMENT["components"]["messages"].items():
        found.append(("message", name, message))
        found += [("example", name, one) for one in message["examples"]]
    return found


def references(value: Any) -> set[str]:
    if isinstance(value, list):
        return {found for each in value for found in references(each)}
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own | {found for each in value.values() for found in references(each)}


def validator(schema: Json) -> jsonschema.Draft202012Validator:
    """Of a part of the document, with what it refers to."""
    return jsonschema.Draft202012Validator(
        resolved(schema, DOCUMENT) | {"components": DOCUMENT["components"]},
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )


def test_the_released_document_is_what_the_code_makes() -> None:
    assert RELEASED.read_text() == written(DOCUMENT), "release it: just asyncapi"


def test_no_subscriber_of_the_released_interface_breaks() -> None:
    found = breaks(released(), DOCUMENT)
    assert not found, told(found)


def test_every_object_is_one_of_asyncapi_3() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    for kind, place, one in objects():
        must, may = FIELDS[kind]
        assert must <= set(one) <= must | may, (kind, place)
    schemas = DOCUMENT["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere_and_nothing_lies_about() -> None:
    found = references(DOCUMENT)
    for reference in found:
        assert resolved({"$ref": reference}, DOCUMENT), reference
    for part, kept in DOCUMENT["components"].items():
        assert {f"#/components/{part}/{name}" for name in kept} <= found, part


def test_every_event_has_its_channel_its_operation_and_its_message() -> None:
    assert set(DOCUMENT["channels"]) == set(EVENT_CLASSES)
    for tag, channel in DOCUMENT["channels"].items():
        assert channel["address"] == f"events.{tag}.{{job_id}}"
        assert resolved(channel["messages"]["event"], DOCUMENT)["name"] == tag
        operation = DOCUMENT["operations"][f"receive.{tag}"]
        assert (operation["action"], resolved(operation["channel"], DOCUMENT)) == (
            "receive",
            channel,
        )


@pytest.mark.parametrize("tag", EVENT_CLASSES)
def test_its_example_and_an_event_as_it_travels_are_valid(tag: str) -> None:
    message = DOCUMENT["components"]["messages"][tag]
    payload = validator(message["payload"])
    (example,) = message["examples"]
    payload.validate(example["payload"])
    validator(message["headers"]).validate(example["headers"])

    read = decode_envelope(msgspec.json.encode(example["payload"]))
    sent = envelope(uuid4(), uuid4(), decode_event(read.data))
    payload.validate(msgspec.json.decode(msgspec.json.encode(sent)))

    for field in ("event_id", "data", "type"):
        less = {name: value for name, value in example["payload"].items() if name != field}
        assert not payload.is_valid(less)
    (other, *_) = (name for name in EVENT_CLASSES if name != tag)
    assert not payload.is_valid(example["payload"] | {"type": other})


def test_what_a_field_is_by_default_may_be_missing() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert "charge_cents" in schemas["JobCompleted"]["properties"]
    assert "charge_cents" not in schemas["JobCompleted"]["required"]


def gone(whole: Json) -> None:
    del whole["channels"]["job.completed.v1"]


def elsewhere(whole: Json) -> None:
    whole["channels"]["job.completed.v1"]["address"] = "events.completed.{job_id}"


def less(whole: Json) -> None:
    del whole["components"]["schemas"]["JobCompleted"]["properties"]["tokens_processed"]


def optional(whole: Json) -> None:
    whole["components"]["schemas"]["JobCompletedMessage"]["required"].remove("event_id")


def other(whole: Json) -> None:
    whole["components"]["schemas"]["JobFailed"]["properties"]["code"] = {"type": "integer"}


def headless(whole: Json) -> None:
    whole["components"]["schemas"]["Headers"]["required"] = []


@pytest.mark.parametrize("change", [gone, elsewhere, less, optional, other, headless])
def test_a_change_that_breaks_subscribers_is_told(change: Any) -> None:
    changed = deepcopy(DOCUMENT)
    change(changed)
    assert breaks(DOCUMENT, changed)


def test_an_addition_breaks_nobody() -> None:
    more = deepcopy(DOCUMENT)
    schemas = more["components"]["schemas"]
    schemas["JobFailed"]["properties"]["hint"] = {"type": "string"}
    schemas["JobFailed"]["properties"]["code"]["enum"].append("sun_flare")
    more["channels"]["job.dreamt.v1"] = more["channels"]["job.failed.v1"]
    assert breaks(DOCUMENT, more) == []


def test_without_examples_it_is_the_same_interface() -> None:
    assert breaks(DOCUMENT, document({})) == []
    assert {type_of(cls) for cls in EVENT_CLASSES.values()} == set(document({})["channels"])
