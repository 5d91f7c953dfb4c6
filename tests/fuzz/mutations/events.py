"""Events as a card provider sends them, by somebody who is none: anybody can reach that address."""

import hashlib
import hmac
import json
from random import Random

from tests.fuzz.case import Case, uncertain
from tests.fuzz.mutations import odd
from tests.fuzz.wire import Requests, Wire

PATH = b"/v1/webhooks/stripe"
SECRETS = (b"", b"whsec_", b"whsec_sandbox", b"\xff")
TIMES = (b"0", b"-1", b"1", b"9" * 30, b"1e9", b"NaN", b"", b" 1", "١".encode(), b"4102444800")
TEMPLATES = (
    *(b"t=%s,v1=%s", b"v1=%s,t=%s", b"t=%s,t=%s,v1=0", b"t=%s,v0=%s", b"t=%s;v1=%s", b"%s=%s"),
    *(b"t=%s,v1=%s,v1=\xff", b"t=%s,v1=%s,,=", b"%s%s"),
)
NO_SIGNATURES = (
    *(b"", b"t", b"t=,v1=", b"=" * 500, b"," * 3_000, b"v1=" + b"0" * 60_000, b"\xff\xfe"),
)
TYPES = (
    *("setup_intent.succeeded", "payment_intent.succeeded", "checkout.session.completed"),
    *("charge.dispute.closed", "customer.deleted", "", "x" * 5_000, "a\x00b"),
)
SIZES = (0, 1, 70_000, 300_000, 2_000_000)  # bytes; our limit lies between
CERTAIN = 50_000  # bytes that no limit keeps from being read


def unsigned_event(random: Random, requests: Requests) -> Case:
    body = _body(random)
    signature = random.choice(NO_SIGNATURES)
    if random.random() < 0.8:
        time = random.choice(TIMES)
        signed = hmac.new(random.choice(SECRETS), time + b"." + body, hashlib.sha256).hexdigest()
        signature = random.choice(TEMPLATES) % (time, signed.encode())
    wire = Wire(operation=None, method=b"POST", path=PATH)
    wire.headers = [each for each in requests.draw(random).headers if each[0] == b"Host"]
    if random.random() < 0.9:
        wire.headers.append((b"Stripe-Signature", signature))
    sent = wire.whole(body, b"application/json")
    if len(sent) > CERTAIN:
        return uncertain("unsigned event", sent)  # it may be refused before it was read
    return Case(kind="unsigned event", pieces=[sent])


def _body(random: Random) -> bytes:
    source = random.random()
    if source < 0.3:
        return odd.json_text(random)
    if source < 0.4:
        return odd.text(random)
    if source < 0.5:
        return b"{" * random.choice(SIZES)
    inner: object = random.choice(
        ({"id": "x"}, {"id": "seti_1", "customer": "cus_1"}, [], None, "x")
    )
    event = {
        "id": random.choice(("evt_1", "", "x" * 5_000, "\u0000")),
        "type": random.choice(TYPES),
        "created": random.choice((0, -1, 2**63, 10**30)),
        "data": {"object": inner},
    }
    return json.dumps(event).encode()
