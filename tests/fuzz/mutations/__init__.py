"""How good requests are broken. Each mutation takes a source of chance and of good requests, and
gives a case; `ALL` says how often each is taken."""

from collections.abc import Callable, Mapping
from random import Random

from tests.fuzz.case import Case
from tests.fuzz.mutations import bodies, events, forms, framing, heads
from tests.fuzz.wire import Requests

Mutation = Callable[[Random, Requests], Case]

ALL: Mapping[Mutation, int] = {
    bodies.unbroken: 4,
    bodies.odd_values: 16,
    bodies.broken_json: 10,
    bodies.wrong_type: 4,
    forms.odd_fields: 8,
    forms.odd_rows: 8,
    forms.broken_structure: 12,
    forms.many_parts: 2,
    heads.odd_query: 10,
    heads.odd_path: 10,
    heads.odd_target: 4,
    heads.odd_headers: 12,
    heads.huge_headers: 1,
    heads.odd_method: 4,
    heads.odd_version: 2,
    framing.wrong_length: 4,
    framing.chunks: 6,
    framing.broken_chunks: 6,
    framing.flipped_bytes: 8,
    framing.cut_short: 6,
    framing.gone_early: 3,
    framing.pipelined: 4,
    framing.dripped: 1,
    events.unsigned_event: 6,
}
