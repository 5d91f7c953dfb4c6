"""An OpenID Connect issuer in a test's hand: it can be slow, down, wrong, and rotate its keys."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.local.program import free_port
from services.gateway.access.issuers import Issuer

AUDIENCE = "tuneyard-test"
HOUR = 3_600

Key = rsa.RSAPrivateKey


def new_key() -> Key:
    return rsa.generate_private_key(65_537, 2048)


class ScriptedIssuer:
    """``keys`` are published by their ids. ``fetched`` counts questions, also to a broken issuer,
    which is answered while ``answers`` is set."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.trusted = Issuer(issuer=self.url, audience=AUDIENCE, jwks_url=f"{self.url}/jwks.json")
        self.keys: dict[str, Key] = {"first": new_key()}
        self.fetched = 0
        self.delay = 0.0
        self.answers = asyncio.Event()
        self.answers.set()
        self.broken: web.Response | None = None

    async def jwks(self, _: web.Request) -> web.Response:
        self.fetched += 1
        await asyncio.sleep(self.delay)
        await self.answers.wait()
        if self.broken is not None:
            return web.Response(
                status=self.broken.status, body=self.broken.body, headers=self.broken.headers
            )
        return web.json_response({"keys": [self.described(key_id) for key_id in self.keys]})

    def described(self, key_id: str) -> dict[str, Any]:
        public = self.keys[key_id].public_key()
        return jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True) | {
            "kid": key_id,
            "use": "sig",
        }

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What a good token says; a change to None leaves the claim out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "iat": now,
            "exp": now + HOUR,
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, key_id: str = "first", key: Key | None = None, **changes: Any) -> str:
        return jwt.encode(
            self.claims(**changes),
            key or self.keys[key_id],
            algorithm="RS256",
            headers={"kid": key_id},
        )


@asynccontextmanager
async def scripted_issuer() -> AsyncIterator[ScriptedIssuer]:
    port = free_port()
    issuer = ScriptedIssuer(port)
    app = web.Application()
    app.router.add_get("/jwks.json", issuer.jwks)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield issuer
    finally:
        await runner.cleanup()
