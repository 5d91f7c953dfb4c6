"""The AsyncAPI 3.0 document of the job events, for programs of the operator's own. Pure.

Schemas are msgspec's own of the very structs that the log holds. An event that was stored before a
field existed does not have it, so what has a default is not promised to be there.
"""

from collections.abc import Mapping
from inspect import getdoc

from libs.bus.streams import EVENTS, EVENTS_DAYS, event_subject
from libs.contracts.base import Envelope, Event
from libs.contracts.events import EVENT_CLASSES
from libs.schemas import Json, schemas_of

VERSION = "1.0.0"
"""Of this interface: the second number grows with what is added, the last with its wording."""

JOB_ID = "{job_id}"
SCHEMAS = "#/components/schemas/"
EXAMPLE_ID = "018f6f4e-5c1a-7c3e-9a55-3f0f6f1f4b{:02d}"
EXAMPLE_TIME = "2026-03-19T12:00:00Z"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

DESCRIPTION = f"""\
Everything that happens to a job, in the words of the event log: submissions, attempts, results,
payments, files. The events are those of the JetStream stream `{EVENTS.name}`; an operator's own
programs read them with a durable pull consumer (`docs/subscribers.md`).

- **At least once.** Every event of the log is published, and delivered until it is acknowledged.
  One that is delivered twice has the same `event_id`: keep the ids that you have dealt with, in
  the transaction of what you did.
- **In order per stream.** `stream` and `version` count the events of one job (`job:<id>`), one
  payment (`payment:<id>`) or one result (`artifact:<id>`) from 1 on, without a gap. What is
  delivered again, and what is read by several processes, may come late: go by `version`.
  `position` says where an event stands in the whole log; positions may have gaps.
- **For {EVENTS_DAYS} days.** Whoever was away for longer reads what is missing from
  the log itself (`log.event`, by stream and version), which has every event for ever.
- **Additions only.** Event types and fields are added, none is taken away or changed: ignore what
  you do not know. An enumeration may get new values. A new meaning is a new type with the next
  number (`job.completed.v2`), and the former one is published beside it for half a year at least.
"""

HEADERS: Json = {
    "type": "object",
    "properties": {
        "Nats-Msg-Id": {
            "type": "string",
            "format": "uuid",
            "description": "The `event_id`, by which JetStream drops repetitions of ten minutes.",
        },
        "traceparent": {
            "type": "string",
            "description": "W3C trace context of the request that led to this event, if known.",
        },
    },
    "required": ["Nats-Msg-Id"],
}


def document(examples: Mapping[str, Json]) -> Json:
    """The whole document. ``examples`` are the ``data`` of one event each, by type."""
    # As of a request: no field is promised that has a default.
    _, schemas = schemas_of([Envelope, *EVENT_CLASSES.values()], [])
    envelope = schemas.pop("Envelope")
    for tag, cls in EVENT_CLASSES.items():
        schemas[f"{cls.__name__}Message"] = _enveloped(envelope, tag, cls)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tuneyard job events",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "installation": {
                "host": "127.0.0.1",
                "protocol": "nats",
                "description": (
                    "NATS with JetStream. `tuneyard-server subscriber create NAME` prints an"
                    " address with its port, a user and a password."
                ),
                "security": [{"$ref": "#/components/securitySchemes/user"}],
            }
        },
        "channels": {tag: _channel(tag) for tag in EVENT_CLASSES},
        "operations": {f"receive.{tag}": _operation(tag) for tag in EVENT_CLASSES},
        "components": {
            "messages": {
                tag: _message(tag, cls, examples.get(tag)) for tag, cls in EVENT_CLASSES.items()
            },
            "schemas": schemas | {"Headers": HEADERS},
            "securitySchemes": {
                "user": {
                    "type": "userPassword",
                    "description": "One of each subscriber, which may read and nothing else.",
                }
            },
        },
    }


def _enveloped(envelope: Json, tag: str, cls: type[Event]) -> Json:
    properties = envelope["properties"] | {
        "type": {"type": "string", "enum": [tag]},
        "data": {"$ref": f"{SCHEMAS}{cls.__name__}"},
    }
    said = f"`{tag}`, and where it stands in the log."
    return envelope | {"description": said, "properties": properties}


def _channel(tag: str) -> Json:
    return {
        "address": event_subject(tag, JOB_ID),
        "description": f"On the stream `{EVENTS.name}`.",
        "parameters": {"job_id": {"description": "The job that the event belongs to, a UUID."}},
        "messages": {"event": {"$ref": f"#/components/messages/{tag}"}},
    }


def _operation(tag: str) -> Json:
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{tag}"},
        "messages": [{"$ref": f"#/channels/{tag}/messages/event"}],
    }


def _message(tag: str, cls: type[Event], example: Json | None) -> Json:
    own = getdoc(cls) if "__doc__" in vars(cls) else None
    message: Json = {
        "name": tag,
        "title": cls.__name__,
        **({"description": own.replace("``", "`")} if own else {}),
        "contentType": "application/json",
        "headers": {"$ref": f"{SCHEMAS}Headers"},
        "payload": {"$ref": f"{SCHEMAS}{cls.__name__}Message"},
    }
    if example is not None:
        message["examples"] = [_example(tag, example)]
    return message


def _example(tag: str, data: Json) -> Json:
    event_id, job_id, account_id = (EXAMPLE_ID.format(number) for number in (1, 2, 3))
    stream = tag.partition(".")[0]
    return {
        "name": tag,
        "headers": {"Nats-Msg-Id": event_id, "traceparent": TRACEPARENT},
        "payload": {
            "event_id": event_id,
            "position": 1042,
            "stream": f"{stream}:{job_id}",
            "version": 1,
            "type": tag,
            "job_id": job_id,
            "account_id": account_id,
            "occurred_at": EXAMPLE_TIME,
            "causation_id": None,
            "traceparent": TRACEPARENT,
            "data": data,
        },
    }
