"""Who sent this request. Settled from the Authorization header alone, before anything is read."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

from msgspec import Struct

from services.gateway.access.accounts import Caller, caller_for
from services.gateway.access.key_text import well_formed
from services.gateway.access.keys import CACHE_SECONDS, caller_of
from services.gateway.access.limits import Limits
from services.gateway.access.oidc import IdTokens
from services.gateway.access.peppers import Peppers
from services.gateway.http.errors import ApiError

TOKEN_SECONDS = 5.0
"""How long a verified ID token is believed without looking: a signature costs more than all else
that a read does. So long, too, an account's changed limit may go unnoticed."""

ASK_AGAIN = 0.8  # of its life: then one request asks anew, before all would have to at once
CACHE_ENTRIES = 10_000  # a few MB; beyond it everybody is asked for again
SCHEME = b"bearer "
MAX_HEADER = 512  # far above a key; a longer header is a token, or nothing
MAX_TOKEN_HEADER = 8192  # an ID token with many claims has a few KB
TOKEN_DOTS = 2  # header, claims and signature; a key has no dot
TOKENS_FROM = "/v1/"  # the Runs API knows keys only


def _refused() -> ApiError:
    return ApiError(
        "invalid_api_key",
        "API key is missing or invalid. Send it as 'Authorization: Bearer tuneyard_...'.",
        headers={"WWW-Authenticate": "Bearer"},
    )


class Known(Struct):
    """A caller who is believed ``until`` then. The first who sends the key after ``ask_at`` asks
    again, and the others need not wait meanwhile. Both are moments of the monotonic clock."""

    caller: Caller
    until: float
    ask_at: float


class Authenticator:
    """Callers by header, from PostgreSQL and the issuers' keys, believed for a moment."""

    def __init__(
        self,
        pool: Any,
        *,
        peppers: Peppers,
        limits: Limits,
        id_tokens: IdTokens,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._peppers = peppers
        self._limits = limits
        self._id_tokens = id_tokens
        self._now = now
        self._monotonic = monotonic
        self._keys: dict[bytes, Known] = {}
        self._tokens: dict[bytes, Known] = {}

    async def caller(self, authorization: bytes | None, path: str) -> Caller:
        """Raises ApiError 401 ``invalid_api_key`` or ``invalid_token``, or 503."""
        if authorization is None or len(authorization) > MAX_TOKEN_HEADER:
            raise _refused()
        if (caller := self._believed(self._keys, authorization)) is not None:
            return caller
        if authorization[: len(SCHEME)].lower() != SCHEME:
            raise _refused()
        sent = authorization[len(SCHEME) :].strip()
        if sent.count(b".") == TOKEN_DOTS and path.startswith(TOKENS_FROM):
            return await self._by_token(sent)
        if len(authorization) > MAX_HEADER:
            raise _refused()
        return await self._by_key(authorization, sent.decode("latin-1"))

    async def _by_key(self, authorization: bytes, key: str) -> Caller:
        if not well_formed(key):
            raise _refused()
        # From before the question: an answer that a revocation has overtaken counts for as long as
        # the revocation waits, and no longer, however late it comes.
        asked = self._monotonic()
        caller = await caller_of(self._pool, key, self._peppers, self._limits, self._now())
        if caller is None:
            self._keys.pop(authorization, None)
            raise _refused()
        self._remember(self._keys, authorization, asked, CACHE_SECONDS, caller)
        return caller

    async def _by_token(self, token: bytes) -> Caller:
        digest = hashlib.sha256(token).digest()  # a token's claims are nobody's to keep
        if (believed := self._believed(self._tokens, digest)) is not None:
            return believed
        asked = self._monotonic()
        subject = await self._id_tokens.verify(token.decode("latin-1"))
        now = self._now()
        caller = await caller_for(self._pool, subject, self._limits, now)
        life = min(TOKEN_SECONDS, subject.expires - now.timestamp())
        self._remember(self._tokens, digest, asked, life, caller)
        return caller

    def _believed(self, cache: dict[bytes, Known], sent: bytes) -> Caller | None:
        """None for who is to be asked for."""
        known, now = cache.get(sent), self._monotonic()
        if known is None or now >= known.until:
            return None
        if now >= known.ask_at:
            known.ask_at = known.until  # this request asks; the others go on meanwhile
            return None
        return known.caller

    def _remember(
        self, cache: dict[bytes, Known], sent: bytes, asked: float, life: float, caller: Caller
    ) -> None:
        if len(cache) >= CACHE_ENTRIES:
            cache.clear()
        cache[sent] = Known(caller, asked + life, asked + life * ASK_AGAIN)
