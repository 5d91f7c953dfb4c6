"""The API's front door: who calls, which handler, once per idempotency key, and Stripe's errors."""

import asyncio
import hashlib
import hmac
import json
import re
from base64 import b64decode
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from msgspec import Struct

from deploy.local.sandbox import (
    charges,
    checkout,
    customers,
    disputes,
    events,
    invoices,
    payments,
    portal,
    prices,
    setups,
    subscriptions,
)
from deploy.local.sandbox.book import API_VERSION, Book, Handler, Routes
from deploy.local.sandbox.faults import CallFault, Faults
from deploy.local.sandbox.form import Params, decode
from deploy.local.sandbox.listing import expand
from deploy.local.sandbox.refusal import Refused, shown
from deploy.local.sandbox.store import Answer

ROUTES: Routes = {
    **charges.ROUTES,
    **checkout.ROUTES,
    **customers.ROUTES,
    **disputes.ROUTES,
    **events.ROUTES,
    **invoices.ROUTES,
    **payments.ROUTES,
    **portal.ROUTES,
    **prices.ROUTES,
    **setups.ROUTES,
    **subscriptions.ROUTES,
}

COMPILED = [
    (method, re.compile(re.escape(path).replace(r"\*", "([^/]+)")), handler)
    for (method, path), handler in ROUTES.items()
]

VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(\.[a-z]+)?")
KEYS_LIVE_SECONDS = 86_400
"""As at Stripe: after a day, the same idempotency key is a new request."""

LONGEST_KEY = 255
MOST_PARAMETERS = 1_000


class Call(Struct, frozen=True, kw_only=True):
    """One request, as far as its effect depends on it. ``key``: its idempotency key."""

    method: str
    path: str
    pairs: list[tuple[str, str]]
    key: str | None
    request_id: str

    @property
    def fingerprint(self) -> str:
        what = json.dumps([self.method, self.path, sorted(self.pairs)])
        return hashlib.sha256(what.encode()).hexdigest()


class Reply(Struct, frozen=True, kw_only=True):
    """``replay_of``: the request that was answered so first."""

    status: int
    body: bytes
    replay_of: str | None = None


class Api:
    """``changed`` is called after each call that may have made events."""

    def __init__(
        self, book: Book, *, api_keys: list[str], faults: Faults, changed: Callable[[], None]
    ) -> None:
        self._book = book
        self._api_keys = [key.encode() for key in api_keys]
        self._faults = faults
        self._changed = changed
        self._in_progress: set[str] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        request_id = self._book.new_id("req")
        headers = {"Request-Id": request_id, "Stripe-Version": _version(request)}
        fault = self._faults.take(request.method, request.path)
        try:
            self._admit(request)
            call = await _read(request, request_id)
            if call.key is None:
                reply = await self._with_fault(call, fault)
            else:
                reply = await self._alone(call, call.key, fault)
            if reply is None:
                assert request.transport is not None
                request.transport.abort()
                return web.Response(status=500)
        except Refused as refused:
            reply = _refusal(refused)
        if reply.replay_of is not None:
            headers |= {"Idempotent-Replayed": "true", "Original-Request": reply.replay_of}
        if reply.status in (409, 429):
            headers["Stripe-Should-Retry"] = "true"
        return web.Response(
            status=reply.status, body=reply.body, content_type="application/json", headers=headers
        )

    def _admit(self, request: web.Request) -> None:
        """Raises Refused unless the request carries one of our keys, as a bearer or a basic
        user."""
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            try:
                given = b64decode(given).decode().partition(":")[0]
            except ValueError:
                given = ""
        if not given:
            raise Refused("You did not provide an API key.", status=401)
        if not any(hmac.compare_digest(given.encode(), key) for key in self._api_keys):
            raise Refused(f"Invalid API Key provided: {given[:8]}***{given[-4:]}", status=401)

    async def _alone(self, call: Call, key: str, fault: CallFault | None) -> Reply | None:
        """Not together with another request of the same key."""
        if key in self._in_progress:
            raise Refused(
                "There is currently another in-progress request using this Idempotent Key (that "
                f"probably means you submitted twice): {key}. Please try again later.",
                status=409,
                type="idempotency_error",
                code="idempotency_key_in_use",
            )
        self._in_progress.add(key)
        try:
            return await self._with_fault(call, fault)
        finally:
            self._in_progress.discard(key)

    async def _with_fault(self, call: Call, fault: CallFault | None) -> Reply | None:
        """None: the connection is to be cut."""
        if fault is None:
            return self._work(call)
        if fault.kind == "slow" and fault.when == "before":
            await asyncio.sleep(fault.seconds)
        elif fault.when == "before":
            reply = _failure(fault)
            if fault.remember and call.key is not None:
                with self._book.store.transaction():
                    self._remember(call, call.key, reply)
            return None if fault.kind == "drop" else reply
        reply = self._work(call)
        if fault.when == "after":
            await asyncio.sleep(fault.seconds)
            if fault.kind == "drop":
                return None
            if fault.kind == "error":
                return _failure(fault)
        return reply

    def _work(self, call: Call) -> Reply:
        """Do it, or repeat what was answered before, in one transaction without a pause."""
        book = self._book
        book.request_id, book.request_key = call.request_id, call.key
        try:
            with book.store.transaction():
                if call.key is not None:
                    book.store.forget_answers(before=book.clock() - KEYS_LIVE_SECONDS)
                    if (known := book.store.answer(call.key)) is not None:
                        return _replay(call, known)
                reply = self._handle(call)
                if call.key is not None:
                    self._remember(call, call.key, reply)
            self._changed()
            return reply
        finally:
            book.request_id = book.request_key = None

    def _handle(self, call: Call) -> Reply:
        handler, ids = _find(call)
        params = Params(decode(call.pairs))
        unfold = params.texts("expand")
        try:
            answer = handler(self._book, params, *ids)
            params.finish()
        except Refused as refused:
            if not refused.keeps:
                raise
            params.finish()
            return _refusal(refused)
        whole = expand(self._book, json.loads(json.dumps(answer)), unfold)
        return Reply(status=200, body=_encode(shown(whole)))

    def _remember(self, call: Call, key: str, reply: Reply) -> None:
        answer = Answer(
            fingerprint=call.fingerprint,
            status=reply.status,
            body=reply.body,
            request_id=call.request_id,
        )
        self._book.store.remember(key, answer, now=self._book.clock())


def _version(request: web.Request) -> str:
    asked = request.headers.get("Stripe-Version", API_VERSION)
    return asked if VERSION.fullmatch(asked) else API_VERSION


async def _read(request: web.Request, request_id: str) -> Call:
    asked = request.headers.get("Stripe-Version", API_VERSION)
    if not VERSION.fullmatch(asked):
        raise Refused(f"Invalid Stripe API version: {asked[:40]}")
    key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
    if key is not None and not 1 <= len(key) <= LONGEST_KEY:
        raise Refused(f"Idempotency keys have 1 to {LONGEST_KEY} characters.")
    raw = await request.text() if request.method == "POST" else request.query_string
    try:
        pairs = parse_qsl(
            raw, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS
        )
    except ValueError as error:
        raise Refused(f"Invalid form encoding: {error}") from error
    return Call(
        method=request.method, path=request.path, pairs=pairs, key=key, request_id=request_id
    )


def _find(call: Call) -> tuple[Handler, tuple[str, ...]]:
    for method, path, handler in COMPILED:
        if method == call.method and (match := path.fullmatch(call.path)):
            return handler, match.groups()
    raise Refused(f"Unrecognized request URL ({call.method}: {call.path}).", status=404)


def _replay(call: Call, known: Answer) -> Reply:
    if known.fingerprint != call.fingerprint:
        raise Refused(
            "Keys for idempotent requests can only be used with the same parameters they were "
            "first used with. Try using a key other than "
            f"'{call.key}' if you meant to execute a different request.",
            type="idempotency_error",
        )
    return Reply(status=known.status, body=known.body, replay_of=known.request_id)


def _refusal(refused: Refused) -> Reply:
    return Reply(status=refused.status, body=_encode({"error": refused.error}))


def _failure(fault: CallFault) -> Reply:
    if fault.status == 429:
        error = {"type": "invalid_request_error", "code": "rate_limit"}
        message = "Request rate limit exceeded."
    else:
        error, message = {"type": "api_error"}, "An unknown error occurred."
    return Reply(status=fault.status, body=_encode({"error": error | {"message": message}}))


def _encode(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()
