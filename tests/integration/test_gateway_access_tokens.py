"""ID tokens: believed when all about them is right, on ``/v1`` only, by keys fetched once."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from deploy.local.s3 import S3Settings
from services.gateway.access.auth import TOKEN_SECONDS
from services.gateway.access.jwks import ASK_EVERY, FRESH_SECONDS, MAX_BYTES, STALE_SECONDS
from services.gateway.access.oidc import LEEWAY
from tests.integration.gateway_app import Gateway, bearer, decoded, running_gateway
from tests.support.issuer import HOUR, ScriptedIssuer, new_key, scripted_issuer
from tests.support.stack import Database, Nats
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[ScriptedIssuer]:
    async with scripted_issuer() as running:
        yield running


@pytest.fixture(scope="module")
async def gateway(
    issuer: ScriptedIssuer,
    database: Database,
    nats_server: Nats,
    s3: S3Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    async with running_gateway(database, nats_server, s3, models, [issuer.trusted]) as running:
        yield running


@pytest.fixture(autouse=True)
def healthy(issuer: ScriptedIssuer, gateway: Gateway) -> None:
    """Every test begins with an issuer that answers, and may be asked."""
    issuer.broken, issuer.delay, issuer.fetched = None, 0.0, 0
    issuer.answers.set()
    gateway.clock.elapsed += ASK_EVERY


async def ask(gateway: Gateway, token: str, path: str = "/v1/jobs") -> httpx.Response:
    return await gateway.client.get(path, headers=bearer(token))


def assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 401, answer.text
    assert decoded(answer)["error"]["code"] == "invalid_token"
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def accounts(gateway: Gateway, subject: str) -> list[Any]:
    found: list[Any] = await gateway.admin.fetch(
        "SELECT * FROM gateway.account WHERE subject = $1", subject
    )
    return found


def segment(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def forged(issuer: ScriptedIssuer, algorithm: str, secret: bytes | None, **heading: Any) -> str:
    """A token with everything right but its signature: HMAC with ``secret``, or none."""
    signed = segment({"alg": algorithm, "kid": "first"} | heading) + b"." + segment(issuer.claims())
    signature = hmac.digest(secret, signed, "sha256") if secret else b""
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


async def test_a_hundred_first_requests_fetch_the_keys_once_and_open_one_account(
    database: Database, nats_server: Nats, s3: S3Settings, tmp_path: Path
) -> None:
    async with (
        scripted_issuer() as issuer,
        running_gateway(database, nats_server, s3, tmp_path, [issuer.trusted]) as gateway,
    ):
        issuer.delay = 0.3
        tokens = [issuer.token(sub="newcomer", jti=str(n)) for n in range(100)]
        answers = await asyncio.gather(*(ask(gateway, token) for token in tokens))

        assert {answer.status_code for answer in answers} == {200}
        assert issuer.fetched == 1
        assert len(await accounts(gateway, "newcomer")) == 1


async def test_the_first_sight_of_a_subject_opens_its_account(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    token = issuer.token(sub="ada", name="Ada Lovelace", email="ada@example.org")
    first, again = await ask(gateway, token, "/v1/me"), await ask(gateway, token, "/v1/me")
    renamed = await ask(gateway, issuer.token(sub="ada", name="Someone"), "/v1/me")

    me = decoded(first)
    assert (me["name"], me["email"], me["plan"]) == ("Ada Lovelace", "ada@example.org", "free")
    assert decoded(again) == decoded(renamed) == me
    assert me["limits"] == {"requests_per_minute": 600, "burst": 100, "max_api_keys": 3}
    (stored,) = await accounts(gateway, "ada")
    assert (str(stored["id"]), stored["issuer"]) == (me["id"], issuer.url)


async def test_a_token_has_every_scope_and_is_limited_like_a_key(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    headers = bearer(issuer.token(sub="owner"))
    created = await gateway.client.post("/v1/api-keys", headers=headers, json={"name": "ci"})

    assert created.status_code == 201
    assert decoded(created)["scopes"] == ["read", "write", "billing", "admin"]
    mine = await ask(gateway, decoded(created)["key"], "/v1/me")
    assert decoded(mine)["name"] == "owner"
    assert created.headers["ratelimit-policy"] == '"default";q=100;w=10'
    assert mine.headers["ratelimit-policy"] == created.headers["ratelimit-policy"]


async def test_one_subjects_things_are_unknown_to_another(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    mine = await gateway.client.post(
        "/v1/datasets",
        headers=bearer(issuer.token(sub="mine")),
        files={"file": ("a.jsonl", b'{"text": "hello"}\n')},
    )
    path = f"/v1/datasets/{decoded(mine)['id']}"

    assert (await ask(gateway, issuer.token(sub="mine"), path)).status_code == 200
    assert (await ask(gateway, issuer.token(sub="theirs"), path)).status_code == 404


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/balance", "/nowhere"])
async def test_the_runs_api_takes_keys_only(
    gateway: Gateway, issuer: ScriptedIssuer, path: str
) -> None:
    token = issuer.token()
    assert (await ask(gateway, token)).status_code == 200

    answer = await ask(gateway, token, path)

    assert answer.status_code == 401
    assert decoded(answer)["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "somebody else"},
        {"aud": ["somebody", "else"]},
        {"aud": None},
        {"aud": 7},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": int(time.time()) - LEEWAY - 5},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": 1e300},
        {"iat": int(time.time()) + HOUR},
        {"iat": None},
        {"nbf": int(time.time()) + HOUR},
        {"sub": ""},
        {"sub": None},
        {"sub": "x" * 256},
        {"sub": "a\x00b"},
        {"sub": "\ud800"},
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(
    gateway: Gateway, issuer: ScriptedIssuer, changes: dict[str, Any]
) -> None:
    assert_refused(await ask(gateway, issuer.token(**changes)))


async def test_one_of_several_audiences_is_enough(gateway: Gateway, issuer: ScriptedIssuer) -> None:
    token = issuer.token(aud=["another", issuer.trusted.audience])

    assert (await ask(gateway, token)).status_code == 200


async def test_no_algorithm_but_the_pinned_one_is_believed(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    """The public key as a shared secret, in every form that a verifier might take it in; none;
    and a key that the token itself brings."""
    public = issuer.keys["first"].public_key()
    pem, der = (
        public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
    )
    mine = new_key()
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(mine.public_key(), as_dict=True)
    heading = {"kid": "first", "jwk": jwk, "jku": "https://evil.example", "x5c": []}
    tokens = [
        *(forged(issuer, "HS256", secret) for secret in (pem, pem.strip(), der, b"secret")),
        *(forged(issuer, "RS256", secret) for secret in (pem, der)),
        *(forged(issuer, name, None) for name in ("none", "None", "", "RS256")),
        forged(issuer, "none", None, kid="unknown"),
        jwt.encode(issuer.claims(), mine, algorithm="RS256", headers=heading),
        jwt.encode(issuer.claims(), issuer.keys["first"], "RS512", headers={"kid": "first"}),
        jwt.encode(issuer.claims(), issuer.keys["first"], "PS256", headers={"kid": "first"}),
    ]
    for token in tokens:
        assert_refused(await ask(gateway, token))


@pytest.mark.parametrize(
    "token",
    [
        "..",
        "a.b.c",
        "e30.e30.e30",
        "eyJhbGciOiJSUzI1NiJ9.e30.",
        f"{segment([[]]).decode()}.e30.x",
        base64.urlsafe_b64encode(b"[" * 3_000).decode() + ".e30.x",
        "e30." + base64.urlsafe_b64encode(b'{"iss":' * 600).decode() + ".x",
        f"{segment({'alg': 'RS256', 'kid': 7}).decode()}.e30.x",
        "\xff.\xfe.\xfd",
    ],
)
async def test_what_only_looks_like_a_token_is_refused(gateway: Gateway, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode("latin-1")}

    assert_refused(await gateway.client.get("/v1/jobs", headers=headers))


async def test_a_token_may_be_long_but_not_endless(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    long, endless = (issuer.token(groups="x" * size) for size in (5_000, 7_000))

    assert (await ask(gateway, long)).status_code == 200
    refused = await ask(gateway, endless)
    assert decoded(refused)["error"]["code"] == "invalid_api_key"


async def test_a_tampered_token_is_refused_although_the_whole_one_is_believed(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    heading, _, signature = issuer.token(sub="alice").split(".")
    _, claims, _ = issuer.token(sub="victim").split(".")
    assert (await ask(gateway, issuer.token(sub="alice"))).status_code == 200

    assert_refused(await ask(gateway, f"{heading}.{claims}.{signature}"))


async def test_a_believed_token_expires_all_the_same(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    token = issuer.token(exp=int(time.time()) + 1, iat=int(time.time()) - HOUR)
    assert (await ask(gateway, token)).status_code == 200

    await asyncio.sleep(1.1)
    gateway.clock.elapsed += TOKEN_SECONDS
    assert (await ask(gateway, token)).status_code == 200  # within the leeway, looked at again
    gateway.clock.ahead = timedelta(seconds=LEEWAY)
    try:
        assert_refused(await ask(gateway, token))
    finally:
        gateway.clock.ahead = timedelta()


async def test_a_new_key_is_fetched_when_a_token_names_it(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    assert (await ask(gateway, issuer.token())).status_code == 200
    gateway.clock.elapsed += ASK_EVERY
    issuer.keys["second"] = new_key()
    issuer.fetched = 0

    answers = await asyncio.gather(
        *(ask(gateway, issuer.token(key_id="second", jti=str(n))) for n in range(20))
    )

    assert {answer.status_code for answer in answers} == {200}
    assert issuer.fetched == 1
    assert (await ask(gateway, issuer.token(jti="old"))).status_code == 200


async def test_a_withdrawn_key_is_forgotten_in_time(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    issuer.keys["leaked"] = new_key()
    leaked = issuer.keys["leaked"]
    assert (await ask(gateway, issuer.token(key_id="leaked"))).status_code == 200
    del issuer.keys["leaked"]

    gateway.clock.elapsed += FRESH_SECONDS + 1

    assert_refused(await ask(gateway, issuer.token(key_id="leaked", key=leaked)))
    assert (await ask(gateway, issuer.token())).status_code == 200


async def test_unknown_keys_make_nobody_ask_more_often_than_every_few_seconds(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    stranger = new_key()
    for _ in range(30):
        assert_refused(await ask(gateway, issuer.token(key_id=str(uuid4()), key=stranger)))

    assert issuer.fetched == 1


async def test_known_keys_outlast_an_issuer_that_is_down(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    assert (await ask(gateway, issuer.token())).status_code == 200
    issuer.broken = web.Response(status=500)

    gateway.clock.elapsed += FRESH_SECONDS + 1
    assert (await ask(gateway, issuer.token(jti="1"))).status_code == 200
    unknown = await ask(gateway, issuer.token(key_id="next", key=new_key()))
    assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "1")
    assert issuer.fetched == 1

    gateway.clock.elapsed += STALE_SECONDS
    assert (await ask(gateway, issuer.token(jti="2"))).status_code == 503
    issuer.broken = None
    gateway.clock.elapsed += ASK_EVERY
    assert (await ask(gateway, issuer.token(jti="2"))).status_code == 200


async def test_a_slow_failure_of_an_issuer_is_waited_for_once(
    gateway: Gateway, issuer: ScriptedIssuer
) -> None:
    assert (await ask(gateway, issuer.token())).status_code == 200
    issuer.broken, issuer.fetched = web.Response(status=500), 0
    issuer.answers.clear()
    gateway.clock.elapsed += FRESH_SECONDS + 1
    waits = asyncio.create_task(ask(gateway, issuer.token(jti="0")))
    await eventually(partial(asked, issuer), (1).__eq__)
    assert (await ask(gateway, gateway.key)).status_code == 200
    assert not waits.done()
    issuer.answers.set()
    assert (await waits).status_code == 200

    issuer.answers.clear()
    gateway.clock.elapsed += ASK_EVERY + 1
    with capture_logs() as said:
        for number in range(1, 3):
            assert (await ask(gateway, issuer.token(jti=str(number)))).status_code == 200
        assert [one for one in said if "not fetched" in str(one["event"])] == []
    await eventually(partial(asked, issuer), (2).__eq__)
    issuer.answers.set()


async def asked(issuer: ScriptedIssuer) -> int:
    return issuer.fetched


@pytest.mark.parametrize(
    "broken",
    [
        web.Response(status=404),
        web.Response(status=302, headers={"Location": "https://evil.example/jwks.json"}),
        web.Response(body=b"not json"),
        web.Response(body=b'{"keys": []}'),
        web.Response(body=b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "first"}]}'),
        web.Response(body=b" " * (MAX_BYTES + 1)),
        web.Response(body=b"[" * 100_000),
    ],
)
async def test_without_any_keys_the_issuer_is_said_to_be_away(
    broken: web.Response, database: Database, nats_server: Nats, s3: S3Settings, tmp_path: Path
) -> None:
    async with (
        scripted_issuer() as issuer,
        running_gateway(database, nats_server, s3, tmp_path, [issuer.trusted]) as gateway,
    ):
        issuer.broken = broken
        answer = await ask(gateway, issuer.token())

        assert answer.status_code == 503
        assert decoded(answer)["error"]["code"] == "service_unavailable"
        assert (await ask(gateway, gateway.key)).status_code == 200


async def test_without_issuers_every_token_is_refused(
    issuer: ScriptedIssuer, database: Database, nats_server: Nats, s3: S3Settings, tmp_path: Path
) -> None:
    async with running_gateway(database, nats_server, s3, tmp_path) as gateway:
        assert_refused(await ask(gateway, issuer.token()))
    assert issuer.fetched == 0
