"""Every operation of the contract against everybody who must not use it: strangers with another
account's ids, requests without a living key, and keys that lack the scope.

The matrix is made from the declarations of the routes, so a new one is covered when it is added,
or fails with a sentence that says what it lacks.
"""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from faststream.nats import NatsBroker

from deploy.local.s3 import S3Settings
from libs.contracts.artifact_rpc import DOWNLOADS
from libs.contracts.scheduler_rpc import CANCEL
from libs.contracts.telemetry_rpc import LOGS, METRICS
from services.gateway.access.accounts import ALL_SCOPES
from services.gateway.access.key_text import key_of
from services.gateway.access.keys import create_key
from services.gateway.http.openapi import document
from services.gateway.http.operation import Operation
from tests.integration.gateway_app import PEPPER, Gateway, bearer, decoded, running_gateway
from tests.support.issuer import ScriptedIssuer, scripted_issuer
from tests.support.matrix import (
    IDS_IN_BODIES,
    OPERATIONS,
    Owner,
    ids_in_body,
    plant,
    request_of,
    stored,
)
from tests.support.matrix_answers import script
from tests.support.running import running
from tests.support.stack import Database, Nats
from tests.support.streams import telemetry_settings
from tests.support.wiretap import Wiretap, tapped

DOCUMENT = document(OPERATIONS, {})

OPEN = {"/v1/healthz", "/v1/readyz", "/openapi.json"}
"""All that may be used without a key."""

SHARED = {"listRunModels", "listBaseModels", "listModels"}
"""Lists in which the catalogue stands as well."""

EACH_TIME_ANOTHER = {"date", "x-request-id", "traceparent", "ratelimit"}

GUARDED = [one for one in OPERATIONS if one.scope is not None]
WITH_IDS = [one for one in GUARDED if one.parameters]
ID_PLACES = [(one, place) for one in GUARDED for place in ids_in_body(one, DOCUMENT)]


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[ScriptedIssuer]:
    async with scripted_issuer() as running:
        yield running


@pytest.fixture(scope="module")
async def gateway(
    database: Database,
    nats_server: Nats,
    s3: S3Settings,
    issuer: ScriptedIssuer,
    operator: NatsBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Gateway]:
    models: Path = tmp_path_factory.mktemp("models")
    trusted = [issuer.trusted]
    async with (
        running("telemetry", telemetry_settings(database, nats_server), operator),
        running_gateway(database, nats_server, s3, models, trusted) as gateway,
    ):
        script(gateway)
        yield gateway


@pytest.fixture(scope="module")
async def tap(gateway: Gateway, nats_url: str) -> AsyncIterator[Wiretap]:
    async with tapped(nats_url, gateway) as listening:
        yield listening


@pytest.fixture
async def owner(gateway: Gateway) -> Owner:
    return await plant(gateway)


async def send(gateway: Gateway, key: str | None, request: Mapping[str, Any]) -> httpx.Response:
    return await answered(gateway, bearer(key) if key else {}, request)


async def answered(
    gateway: Gateway, headers: Mapping[str, str], request: Mapping[str, Any]
) -> httpx.Response:
    """The whole answer; of an account's stream, which has no end, how it begins."""
    async with gateway.client.stream(headers=headers, **request) as answer:
        if request["url"] == "/v1/stream" and answer.status_code == 200:
            begun = await anext(answer.aiter_raw())
            return httpx.Response(200, headers=answer.headers, content=begun)
        await answer.aread()
        return answer


def told(answer: httpx.Response, *ids: str) -> tuple[int, dict[str, str], str]:
    """What an answer says that is not new each time; the ids that were asked for count as one."""
    text = answer.text.replace(answer.headers["x-request-id"], "<request>")
    for each in ids:
        text = text.replace(each, "<id>")
    headers = {name: of for name, of in answer.headers.items() if name not in EACH_TIME_ANOTHER}
    return answer.status_code, headers, text


def check_no_leak(answer: httpx.Response, owner: Owner, *, sent: Sequence[str] = ()) -> None:
    said = answer.text + str(answer.headers)
    assert not [each for each in owner.secrets if each in said and each not in sent]


async def check_nobody_was_asked(tap: Wiretap, owner: Owner, stranger: UUID) -> None:
    """No service was told of the owner's objects, unless it was told as well who asks, so that it
    can see for itself that they are not theirs."""
    for subject, question in await tap.heard():
        named = [each for each in owner.secrets if each in question]
        assert not named or f'"account_id":"{stranger}"' in question, f"{subject}: {question}"


@pytest.mark.parametrize("one", WITH_IDS, ids=lambda one: one.id)
async def test_another_accounts_object_does_not_exist(
    gateway: Gateway, tap: Wiretap, owner: Owner, one: Operation
) -> None:
    stranger, key = await gateway.account(cents=10_000_000)
    nowhere = {name: str(uuid4()) for name in one.parameters}
    before = await stored(gateway, owner)
    await tap.heard()

    theirs = await send(gateway, key, request_of(one, owner.ids))
    await check_nobody_was_asked(tap, owner, stranger)
    unknown = await send(gateway, key, request_of(one, owner.ids | nowhere))

    assert theirs.status_code == 404, theirs.text
    assert decoded(theirs)["error"]["code"] == "not_found"
    asked = [*(owner.ids[name] for name in one.parameters), *nowhere.values()]
    assert told(theirs, *asked) == told(unknown, *asked)
    check_no_leak(theirs, owner)
    assert await stored(gateway, owner) == before
    own = await send(gateway, owner.key, request_of(one, owner.ids))
    assert own.status_code == one.status, own.text


async def test_questions_that_name_a_job_alone_are_heard_of_its_owner(
    gateway: Gateway, tap: Wiretap, owner: Owner
) -> None:
    """Whoever answers them can't see for themselves who asks; the test above hears them all."""
    await tap.heard()
    for one in WITH_IDS:
        await send(gateway, owner.key, request_of(one, owner.ids))

    heard = {subject for subject, _ in await tap.heard()}
    assert {rpc.subject for rpc in (METRICS, LOGS, CANCEL, DOWNLOADS)} <= heard


@pytest.mark.parametrize(
    ("one", "place"), ID_PLACES, ids=[f"{one.id}-{place}" for one, place in ID_PLACES]
)
async def test_another_accounts_id_in_a_body_is_as_unknown_as_any(
    gateway: Gateway, tap: Wiretap, owner: Owner, one: Operation, place: str
) -> None:
    kind = IDS_IN_BODIES[place.rpartition(".")[2]]
    stranger = await plant(gateway)
    taken, nothing = owner.ids[kind], str(uuid4())
    before = await stored(gateway, owner)
    await tap.heard()

    theirs = await send(
        gateway, stranger.key, request_of(one, stranger.ids, replaced=(place, taken))
    )
    await check_nobody_was_asked(tap, owner, stranger.account_id)
    unknown = await send(
        gateway, stranger.key, request_of(one, stranger.ids, replaced=(place, nothing))
    )

    assert theirs.status_code in (404, 422), theirs.text
    assert decoded(theirs)["error"]["code"] in ("not_found", "model_not_available")
    assert told(theirs, taken, nothing) == told(unknown, taken, nothing)
    check_no_leak(theirs, owner, sent=[taken])
    assert await stored(gateway, owner) == before
    if one.form is None:  # a run takes a model of the catalogue only
        own = await send(gateway, owner.key, request_of(one, owner.ids, replaced=(place, taken)))
        assert own.status_code == one.status, own.text


@pytest.mark.parametrize(
    "one", [one for one in GUARDED if not one.parameters], ids=lambda one: one.id
)
async def test_a_stranger_is_shown_nothing_of_another_account(
    gateway: Gateway, owner: Owner, one: Operation
) -> None:
    """Not even to the same request under the same idempotency key, or by the owner's cursor."""
    stranger = await plant(gateway)
    before = await stored(gateway, owner)
    request = request_of(one, stranger.ids)
    if "json" in request and "idempotency_key" in request["json"]:
        request["json"]["idempotency_key"] = owner.marker
    headers = stranger.headers | {"Idempotency-Key": owner.marker}

    answer = await answered(gateway, headers, request)

    if answer.status_code != one.status:
        assert decoded(answer)["error"]["code"] == "card_payments_not_configured", answer.text
    assert "idempotency-replayed" not in answer.headers
    check_no_leak(answer, owner)
    if one.query is not None and "cursor" in one.query.__struct_fields__:
        first = await send(gateway, owner.key, request | {"params": {"limit": 1}})
        cursor = decoded(first)["next_cursor"]
        assert cursor, f"{one.id} lists too little for a second page: let `plant` make two"
        beyond = await send(gateway, stranger.key, request | {"params": {"cursor": cursor}})
        assert beyond.status_code == 200
        check_no_leak(beyond, owner)
    assert await stored(gateway, owner) == before


@pytest.mark.parametrize(
    "one",
    [one for one in GUARDED if one.method == "GET" and not one.parameters and not one.events],
    ids=lambda one: one.id,
)
async def test_a_new_account_has_empty_lists(gateway: Gateway, one: Operation) -> None:
    _, key = await gateway.account(cents=0)

    answer = decoded(await send(gateway, key, request_of(one, {})))

    if "data" in answer and one.id not in SHARED:
        mine = [row for row in answer["data"] if key.startswith(row.get("prefix", " "))]
        assert answer["data"] == mine
    if one.id in SHARED:
        assert not [row for row in answer["data"] if row.get("owned_by") == "account"]


def test_what_is_open_is_named_here() -> None:
    assert {one.path for one in OPERATIONS if one.scope is None} == OPEN


async def key_with(gateway: Gateway, scopes: Sequence[str], **more: Any) -> str:
    """A new account's key."""
    account_id, _ = await gateway.account(cents=10_000_000)
    return await create_key(
        gateway.admin,
        account_id=account_id,
        name="scoped",
        pepper=more.pop("pepper", PEPPER),
        secret=secrets.token_bytes(32),
        now=gateway.clock.now(),
        scopes=scopes,
        **more,
    )


@pytest.fixture(scope="module")
async def refused(gateway: Gateway) -> dict[str, str]:
    """Authorization headers that let nobody in."""
    _, living = await gateway.account(cents=0)
    revoked = await key_with(gateway, ALL_SCOPES)
    listed = await gateway.client.get("/v1/api-keys", headers=bearer(revoked))
    (itself,) = [row for row in decoded(listed)["data"] if revoked.startswith(row["prefix"])]
    gone = await gateway.client.delete(f"/v1/api-keys/{itself['id']}", headers=bearer(revoked))
    assert gone.status_code == 200, gone.text
    past = gateway.clock.now() - timedelta(seconds=1)
    keys = {
        "unknown": key_of(secrets.token_bytes(32)),
        "truncated": living[:-1],
        "with another checksum": living[:-1] + ("A" if living[-1] != "A" else "B"),
        "of another make": "sk_live_" + living.removeprefix("tuneyard_"),
        "revoked": revoked,
        "expired": await key_with(gateway, ALL_SCOPES, expires_at=past),
        "of another installation": await key_with(gateway, ALL_SCOPES, pepper=b"another"),
        "no ID token": "e30.e30.e30",
    }
    return {name: f"Bearer {key}" for name, key in keys.items()} | {
        "empty": "Bearer",
        "another scheme": f"Basic {living}",
        "no scheme": living,
    }


@pytest.mark.parametrize("one", GUARDED, ids=lambda one: one.id)
async def test_nobody_comes_in_without_a_living_key(
    gateway: Gateway, tap: Wiretap, refused: dict[str, str], one: Operation
) -> None:
    request = request_of(one, Anything())
    await tap.heard()

    answers = {"none": await gateway.client.request(**request)}
    for name, header in refused.items():
        answers[name] = await gateway.client.request(**request, headers={"Authorization": header})

    for name, answer in answers.items():
        assert answer.status_code == 401, f"{name}: {answer.text}"
        error = decoded(answer)["error"]
        assert error["code"] in ("invalid_api_key", "invalid_token"), name
        assert answer.headers["www-authenticate"].startswith("Bearer"), name
    assert await tap.heard() == []


class Anything(dict[str, str]):
    """An id of nothing for every parameter."""

    def __missing__(self, name: str) -> str:
        return str(uuid4())

    def __contains__(self, name: object) -> bool:
        return True


@pytest.mark.parametrize("one", GUARDED, ids=lambda one: one.id)
async def test_an_id_token_counts_on_the_jobs_api_alone(
    gateway: Gateway, issuer: ScriptedIssuer, one: Operation
) -> None:
    request = request_of(one, Anything())

    good = await send(gateway, issuer.token(), request)
    late = await send(gateway, issuer.token(exp=1), request)
    meant_for_another = await send(gateway, issuer.token(aud="another"), request)

    if one.path.startswith("/v1/"):
        assert good.status_code not in (401, 403), good.text
    else:
        assert good.status_code == 401
    assert late.status_code == meant_for_another.status_code == 401


@pytest.mark.parametrize("one", GUARDED, ids=lambda one: one.id)
async def test_a_key_needs_the_scope_of_its_operation_and_no_other(
    gateway: Gateway, tap: Wiretap, one: Operation
) -> None:
    assert one.scope is not None
    others = await key_with(gateway, [scope for scope in ALL_SCOPES if scope != one.scope])
    exactly = await key_with(gateway, [one.scope])
    request = request_of(one, Anything())
    await tap.heard()

    lacking = await send(gateway, others, request)
    asked = await tap.heard()
    enough = await send(gateway, exactly, request)

    assert lacking.status_code == 403, lacking.text
    assert decoded(lacking)["error"]["code"] == "insufficient_scope"
    assert f'scope="{one.scope}"' in lacking.headers["www-authenticate"]
    assert asked == []
    assert enough.status_code not in (401, 403), enough.text
    assert enough.status_code < 500
