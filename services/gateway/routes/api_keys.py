"""API keys of the account: made, listed and deleted by whoever holds an admin key."""

import secrets
from datetime import datetime
from typing import Annotated

import msgspec
from litestar.params import FromPath
from msgspec import Meta, Struct

from services.gateway.access.accounts import ALL_SCOPES, AccessScope
from services.gateway.access.key_text import SECRET_BYTES
from services.gateway.access.keys import ApiKey, revoke_key
from services.gateway.access.own_keys import CreatedKey, Wanted, key_page, make_key
from services.gateway.http.errors import ApiError, not_found
from services.gateway.http.operation import operation
from services.gateway.http.pages import Page, PageQuery, place_of
from services.gateway.http.replies import Deleted, Reply, reply
from services.gateway.job_requests import Name
from services.gateway.model import digest
from services.gateway.parts import Asked, caller_of, id_in_path, parts_of
from services.gateway.reading import header_key, read_json, read_query
from services.gateway.submission import conflict


class NewKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``scopes`` left out: all that the key has which asks. ``expires_at`` null: never."""

    name: Name
    scopes: (
        Annotated[
            list[AccessScope], Meta(min_length=1, max_length=16, description="What it may do.")
        ]
        | None
    ) = None
    expires_at: (
        Annotated[
            datetime,
            Meta(tz=True, description="When it stops working: with an offset, within ten years."),
        ]
        | None
    ) = None


decode_new_key = msgspec.json.Decoder(NewKey)


@operation(
    "POST",
    "/v1/api-keys",
    id="createApiKey",
    tag="Account",
    scope="admin",
    answer=CreatedKey,
    status=201,
    body=NewKey,
    refuses=("api_key_limit", "idempotency_conflict"),
    idempotency_key=True,
    links={"key_id": "/id"},
)
async def create_api_key(request: Asked) -> Reply:
    """Create an API key.

    The key is shown in this answer only. It can't do more than the key that asks for it, and an
    account has at most as many active keys as its plan allows.
    """
    parts, caller = parts_of(request), caller_of(request)
    header, asked = header_key(request, "jobs"), await read_json(request, decode_new_key)
    missing = sorted(set(asked.scopes or ()) - caller.scopes)
    if missing:
        raise ApiError(
            "insufficient_scope",
            f"A key can't give what it lacks itself: {', '.join(missing)}.",
        )
    given = caller.scopes if asked.scopes is None else set(asked.scopes)
    made = await make_key(
        parts.pool,
        Wanted(
            account_id=caller.account_id,
            name=asked.name,
            scopes=[scope for scope in ALL_SCOPES if scope in given],
            expires_at=asked.expires_at,
            idempotency_key=header.text if header else None,
            request_sha256=digest(asked),
        ),
        limits=parts.limits,
        peppers=parts.peppers,
        key_id=parts.new_id(),
        secret=secrets.token_bytes(SECRET_BYTES),
        now=parts.now(),
    )
    if made is None:
        raise conflict()
    return reply(
        made.key, status=201, headers={"Idempotency-Replayed": "true"} if made.replayed else None
    )


@operation(
    "GET",
    "/v1/api-keys",
    id="listApiKeys",
    tag="Account",
    scope="admin",
    answer=Page[ApiKey],
    query=PageQuery,
    links={"key_id": "/data/0/id"},
)
async def list_api_keys(request: Asked) -> Reply:
    """List the API keys that were not deleted, newest first."""
    query = read_query(request, PageQuery)
    return reply(
        await key_page(
            parts_of(request).pool,
            caller_of(request).account_id,
            place_of(query.cursor),
            query.limit,
        )
    )


@operation(
    "DELETE",
    "/v1/api-keys/{key_id}",
    id="deleteApiKey",
    tag="Account",
    scope="admin",
    answer=Deleted,
)
async def delete_api_key(request: Asked, key_id: FromPath[str]) -> Reply:
    """Delete an API key.

    When this has answered, the key is refused everywhere. A key may delete itself.
    """
    parts, found = parts_of(request), id_in_path(key_id, "API key")
    if not await revoke_key(
        parts.pool, key_id=found, account_id=caller_of(request).account_id, now=parts.now()
    ):
        raise not_found("API key")
    return reply(Deleted(found))


ROUTES = (create_api_key, list_api_keys, delete_api_key)
