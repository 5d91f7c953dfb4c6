"""What the tenant matrix is made of: an account with one of everything, and requests for each
operation of the contract.

Whoever adds an operation with a new path parameter, a new id in a body or a new body adds it here;
until then the matrix fails and says so.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
from msgspec import Struct

from libs.contracts.scheduler import JobCheckpointed
from services.gateway.app import ROUTES
from services.gateway.http.operation import Operation, operations_of
from tests.integration.gateway_app import ROWS, Gateway, bearer, decoded, run_form
from tests.integration.gateway_story import checkpoint_of, completing, file, happened

Kind = Literal[
    "run_id",
    "job_id",
    "dataset_id",
    "validation_id",
    "model_id",
    "key_id",
    "webhook_id",
    "delivery_id",
]

OPERATIONS = operations_of(ROUTES)

IDS_IN_BODIES: Mapping[str, Kind] = {
    "dataset_id": "dataset_id",
    "base_model_id": "model_id",
    "source_model_id": "model_id",
    "model_id": "model_id",
    "validation_dataset_id": "validation_id",
    "job_id": "run_id",
}
"""What the ids in bodies and forms name. The job to start from is a fine-tune, as runs are."""

HERE = "tests/support/matrix.py"
TINY_LLAMA = "tiny-llama"


class Owner(Struct, frozen=True, kw_only=True):
    """An account that has one of everything, at least. ``marker`` stands in every text of theirs;
    it and all their ids are ``secrets`` of theirs."""

    account_id: UUID
    key: str
    marker: str
    ids: Mapping[Kind, str]
    secrets: Sequence[str]

    @property
    def headers(self) -> dict[str, str]:
        return bearer(self.key)


async def _posted(gateway: Gateway, path: str, **request: Any) -> Any:
    answer = await gateway.client.post(path, **request)
    assert answer.status_code == 201, answer.text
    return decoded(answer)


async def plant(gateway: Gateway) -> Owner:
    """A new account with two of what is listed, its jobs completed."""
    account_id, key = await gateway.account(cents=10_000_000)
    marker = f"violet-heron-{uuid4().hex}"
    headers = bearer(key)
    found: list[tuple[Kind, str]] = []
    for number in range(2):
        file_of = {"file": (f"{marker}.jsonl", ROWS)}
        keyed = headers | {"Idempotency-Key": f"{marker}-{number}"}
        dataset = await _posted(
            gateway, "/v1/datasets", headers=keyed, files=file_of, data={"name": marker}
        )
        run = await _posted(
            gateway,
            "/api/v1/runs",
            headers=keyed,
            files={"dataset": file_of["file"]},
            data=run_form(label=marker),
        )
        found += [("dataset_id", dataset["id"]), ("run_id", run["run_id"])]
        checkpointed = JobCheckpointed(epoch=1, checkpoint=checkpoint_of(run["run_id"], 5))
        await happened(gateway, run["run_id"], *completing(), checkpointed, account_id=account_id)
    job = await _posted(
        gateway, "/v1/jobs", headers=headers, json=job_body(found[-2][1], marker, marker=marker)
    )
    weights = file("model.safetensors", "model", f"jobs/{marker}/model.safetensors")
    await happened(gateway, job["id"], *completing(weights), account_id=account_id)
    made = await gateway.client.get(f"/v1/jobs/{job['id']}", headers=headers)
    api_key = await _posted(
        gateway,
        "/v1/api-keys",
        headers=headers | {"Idempotency-Key": marker},
        json={"name": marker},
    )
    found += [("job_id", job["id"]), ("model_id", decoded(made)["output_model_id"])]
    found += [("key_id", api_key["id"]), ("validation_id", found[0][1])]
    webhooks = await _webhooks(gateway, headers, marker)
    found += webhooks.ids
    secrets = [marker, str(account_id), key, api_key["key"], *(value for _, value in found)]
    secrets += webhooks.secrets
    return Owner(account_id=account_id, key=key, marker=marker, ids=dict(found), secrets=secrets)


class Webhooks(Struct, frozen=True):
    ids: Sequence[tuple[Kind, str]]
    secrets: Sequence[str]


async def _webhooks(gateway: Gateway, headers: Mapping[str, str], marker: str) -> Webhooks:
    """Two, with two deliveries each."""
    ids: list[tuple[Kind, str]] = []
    secrets = []
    for number in range(2):
        made = await _posted(
            gateway,
            "/v1/webhooks",
            headers=headers | {"Idempotency-Key": marker + "-webhook" * number},
            json={"url": f"https://{marker}.example/", "description": marker},
        )
        ids.append(("webhook_id", made["id"]))
        secrets.append(made["secret"])
        for _ in range(2):
            ping = await gateway.client.post(f"/v1/webhooks/{made['id']}/test", headers=headers)
            ids.append(("delivery_id", decoded(ping)["id"]))
            secrets.append(decoded(ping)["event_id"])
    return Webhooks(ids, secrets)


def job_body(dataset_id: str, key: str, *, marker: str | None = None) -> dict[str, Any]:
    named = {} if marker is None else {"label": marker, "hyperparams": {"output_name": marker}}
    return {
        "type": "train",
        "idempotency_key": key,
        "base_model_id": TINY_LLAMA,
        "dataset_id": dataset_id,
        **named,
    }


def request_of(
    one: Operation, ids: Mapping[str, str], *, replaced: tuple[str, str] | None = None
) -> dict[str, Any]:
    """A good request for the operation, about the objects with these ids; ``replaced`` is a place
    in the body, such as ``hyperparams.base_model_id``, and the id to put there."""
    path = re.sub(r"{(\w+)}", lambda name: _known(ids, name[1], one), one.path)
    request: dict[str, Any] = {"method": one.method, "url": path}
    if one.id == "previewDataset":
        request["params"] = {"model": TINY_LLAMA}
    if one.body is not None:
        request["json"] = _body(one, ids)
    if one.form is not None:
        fields = run_form() if one.id == "createRun" else {}
        request |= {"data": fields, "files": {one.form.file: ("rows.jsonl", ROWS)}}
    if replaced is not None:
        place, value = replaced
        body: Any = request.get("json", request.get("data"))
        *outer, last = place.split(".")
        if last in ("base_model_id", "source_model_id"):
            body.pop("base_model_id", None)  # one name for the model is allowed
        if outer == ["start_from"]:
            body["type"] = "finetune"
        for name in outer:
            body = body.setdefault(name, {})
        body[last] = value
    return request


def _known(ids: Mapping[str, str], name: str, one: Operation) -> str:
    if name not in ids:
        pytest.fail(
            f"{one.method} {one.path} takes {{{name}}}, of which the tenant matrix has none:"
            f" let `plant` in {HERE} make one"
        )
    return ids[name]


def _body(one: Operation, ids: Mapping[str, str]) -> dict[str, Any]:
    match one.id:
        case "createJob":
            return job_body(ids["dataset_id"], str(uuid4()))
        case "estimateJob":
            return {"type": "train", "base_model_id": TINY_LLAMA, "dataset_id": ids["dataset_id"]}
        case "recommendTraining":
            return {"base_model_id": TINY_LLAMA, "dataset_id": ids["dataset_id"]}
        case "createApiKey":
            return {"name": "another"}
        case "createWebhook":
            return {"url": "https://another.example/"}
        case "recoverWebhook":
            return {"since": "2026-01-01T00:00:00Z"}
        case "setUpCard" | "updateMe" | "updateWebhook":
            return {}
        case "topUp":
            return {"amount_cents": 500}
        case "subscribe":
            return {"plan": "plus"}
    pytest.fail(f"{one.method} {one.path} takes a body: give the tenant matrix one in {HERE}")


def ids_in_body(one: Operation, document: Mapping[str, Any]) -> list[str]:
    """The places of ids in the operation's body or form, from the document."""
    item = document["paths"][one.path][one.method.lower()]
    contents = item.get("requestBody", {}).get("content", {}).values()
    places = {place for content in contents for place in _ids(content["schema"], document)}
    for place in places:
        if place.rpartition(".")[2] not in IDS_IN_BODIES:
            pytest.fail(f"{one.id} takes {place}: say in {HERE}, IDS_IN_BODIES, what it names")
    return sorted(places)


def _ids(schema: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    found = []
    for kind in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(kind, ()):
            found += _ids(each, document)
    for name, of in schema.get("properties", {}).items():
        found += [name] if name.endswith("_id") else []
        found += [f"{name}.{inner}" for inner in _ids(of, document)]
    return found


ROWS_SQL = """
SELECT format('%I.%I', c.table_schema, c.table_name) AS name, c.column_name AS by
FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
WHERE c.table_schema NOT IN ('pg_catalog', 'information_schema') AND t.table_type = 'BASE TABLE'
  AND (c.column_name IN ('account_id', 'job_id', 'endpoint_id')
       OR (c.table_schema, c.table_name, c.column_name) = ('gateway', 'account', 'id'))
"""


async def stored(gateway: Gateway, owner: Owner) -> dict[str, list[str]]:
    """Every row of every table that is of the account, one of its jobs or one of its webhooks."""
    mine = [owner.account_id]
    mine += [UUID(owner.ids[kind]) for kind in ("job_id", "run_id", "webhook_id")]
    found = {}
    for table in await gateway.admin.fetch(ROWS_SQL):
        rows = await gateway.admin.fetch(
            f"SELECT t::text FROM {table['name']} t WHERE {table['by']} = ANY($1::uuid[])", mine
        )
        found[f"{table['name']} {table['by']}"] = sorted(row[0] for row in rows)
    return found
