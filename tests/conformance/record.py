"""``just examples``: ask a whole platform everything once, and keep the answers as examples.

They stand in ``services/gateway/examples.json`` by operation id, and from there in the OpenAPI
document. An operation that is not asked here makes the recording fail, by name.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx

from deploy.local.services import ROOT, TINY_LLAMA
from services.gateway.app import ROUTES
from services.gateway.http.operation import Operation, operations_of
from tests.conformance.neutral import Neutral
from tests.support.journey import run_form, sample_rows
from tests.support.local_stack import local_stack

EXAMPLES = ROOT / "services/gateway/examples.json"
ROWS = 2_000  # the whole sample, and as many steps as teach the model something
STEPS = 200
END_SECONDS = 600.0
POLL = 0.25
TIMEOUT = 30.0
ENDED = ("completed", "failed", "cancelled")
LAST = 3  # points, lines and entries that are enough to show what they look like

WITHOUT_ANSWER = {
    "getOpenapi": "its answer is the document that the examples stand in",
    **dict.fromkeys(
        ("streamJob", "streamAccount"), "its answer goes on; docs/stream.md shows how it begins"
    ),
    **dict.fromkeys(
        ("setUpCard", "topUp", "subscribe"), "it leads to a page on the machine that recorded it"
    ),
}
"""Operations whose answer is not recorded, and why."""

Json = dict[str, Any]


class Recorder:
    """A client that keeps the first answer of each operation."""

    def __init__(self, api: httpx.Client) -> None:
        self.examples: dict[str, Json] = {}
        self._api = api
        self._operations: dict[str, Operation] = {one.id: one for one in operations_of(ROUTES)}

    def ask(
        self, operation_id: str, *, query: Json | None = None, body: Any = None, **path: str
    ) -> Any:
        """The decoded answer of an operation, which must be the hoped-for one."""
        sent = {} if body is None else {"json": body}
        return self._kept(operation_id, body, params=query or {}, path=path, **sent)

    def upload(self, operation_id: str, **form: Any) -> Any:
        return self._kept(operation_id, None, params={}, path={}, **form)

    def _kept(self, operation_id: str, body: Any, *, params: Json, path: Json, **sent: Any) -> Any:
        one = self._operations[operation_id]
        answer = self._api.request(one.method, one.path.format(**path), params=params, **sent)
        example: Json = {} if body is None else {"request": body}
        if operation_id not in WITHOUT_ANSWER:
            assert answer.status_code == one.status, f"{operation_id}: {answer.text}"
            example["answer"] = answer.json()
        self.examples.setdefault(operation_id, example)
        return answer.json()

    def missing(self) -> list[str]:
        wanted = {name for name, one in self._operations.items() if one.events is None}
        return sorted(wanted - self.examples.keys())

    def in_order(self) -> dict[str, Json]:
        """As the document has them."""
        return {name: kept for name in self._operations if (kept := self.examples.get(name))}


def record_account(recorder: Recorder) -> None:
    recorder.ask("getHealth")
    recorder.ask("getReadiness")
    recorder.ask("getOpenapi")
    recorder.ask("getMe")
    recorder.ask("updateMe", body={"notification_preferences": {"product_news": False}})
    wanted = {"name": "laptop", "scopes": ["read", "write"]}
    made = recorder.ask("createApiKey", body=wanted)
    recorder.ask("listApiKeys")
    recorder.ask("deleteApiKey", key_id=made["id"])


def record_run(recorder: Recorder) -> None:
    recorder.ask("listRunModels")
    recorder.ask("getBalance")
    form = run_form(sample_rows(ROWS), label="My first run")
    run_id = recorder.upload("createRun", **form)["run_id"]
    end = time.monotonic() + END_SECONDS
    while (status := ask_again(recorder, "getRun", run_id=run_id)["run"]["status"]) not in ENDED:
        assert time.monotonic() < end, f"the run is {status}"
    recorder.ask("getRun", run_id=run_id)
    recorder.ask("listRuns", query={"limit": 1})
    recorder.ask("downloadRun", run_id=run_id)


def ask_again(recorder: Recorder, operation_id: str, **path: str) -> Any:
    """An answer on the way to the one that is kept."""
    time.sleep(POLL)
    answer = recorder.ask(operation_id, query=None, body=None, **path)
    del recorder.examples[operation_id]
    return answer


def record_jobs(recorder: Recorder) -> None:
    base = recorder.ask("listBaseModels")["data"]
    (base_id,) = [model["id"] for model in base if model["slug"] == TINY_LLAMA]
    dataset = recorder.upload(
        "createDataset",
        files={"file": ("training_data.jsonl", sample_rows(ROWS))},
        data={"name": "support answers"},
    )
    dataset_id = dataset["id"]
    recorder.ask("listDatasets")
    recorder.ask("getDataset", dataset_id=dataset_id)
    shown = {"model": TINY_LLAMA, "limit": 1, "seq_len": 32}
    recorder.ask("previewDataset", query=shown, dataset_id=dataset_id)
    named = {"base_model_id": base_id, "dataset_id": dataset_id}
    recorder.ask("recommendTraining", body=named)
    page = "https://your-site.example/billing"
    recorder.ask("setUpCard", body={"success_url": page, "cancel_url": page})
    recorder.ask("topUp", body={"amount_cents": 2_500, "success_url": page, "cancel_url": page})
    recorder.ask("subscribe", body={"plan": "plus", "success_url": page, "cancel_url": page})

    tune = {"type": "finetune", **named, "hyperparams": {"lora_rank": 32, "steps": STEPS}}
    recorder.ask("estimateJob", body=tune)
    grow = {
        "type": "train",
        "idempotency_key": "run-1",
        **named,
        "hyperparams": {"turns": 2, "output_name": "my-model"},
    }
    growing = recorder.ask("createJob", body=grow)
    waiting = recorder.ask("createJob", body=grow | {"idempotency_key": "run-2"})
    recorder.ask("cancelJob", job_id=waiting["id"])
    recorder.ask("cancelJob", job_id=growing["id"])

    tune["hyperparams"] |= {"output_name": "my-model"}
    job_id = recorder.ask("createJob", body=tune | {"idempotency_key": "ft-1"})["id"]
    record_outcome(recorder, job_id)
    recorder.ask("deleteDataset", dataset_id=dataset_id)


def record_outcome(recorder: Recorder, job_id: str) -> None:
    end = time.monotonic() + END_SECONDS
    while (status := ask_again(recorder, "getJob", job_id=job_id)["status"]) not in ENDED:
        assert time.monotonic() < end, f"the job is {status}"
    kept = recorder.ask("getJob", job_id=job_id)
    recorder.ask("listJobs", query={"limit": 1})
    latest = ask_again(recorder, "getJobMetrics", job_id=job_id)["latest_step"]
    recorder.ask("getJobMetrics", query={"since_step": latest - LAST}, job_id=job_id)
    latest = ask_again(recorder, "getJobLogs", job_id=job_id)["latest_seq"]
    recorder.ask("getJobLogs", query={"since": latest - LAST}, job_id=job_id)
    for asked in ("listJobEvents", "getJobResult", "listJobCheckpoints", "downloadJob"):
        recorder.ask(asked, job_id=job_id)
    recorder.ask("extendStorage", job_id=job_id)
    recorder.ask("listModels")
    recorder.ask("getModel", model_id=kept["output_model_id"])
    recorder.ask("getBillingSummary")
    recorder.ask("listLedger", query={"limit": LAST})


class Receiver(BaseHTTPRequestHandler):
    """Takes whatever is sent."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:
        """What it takes is nothing new."""


@contextmanager
def receiver() -> Iterator[str]:
    """Its URL."""
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def record_webhook(recorder: Recorder, url: str) -> Any:
    """Gives the id of one that really receives, at ``url``; the one shown is nowhere."""
    told = {"event_types": ["job.completed", "job.failed"], "description": "our training page"}
    shown = {"url": "https://hooks.your-site.example/tuneyard"} | told
    made = recorder.ask("createWebhook", body=shown)["id"]
    recorder.ask("listWebhooks", query={"limit": 1})
    recorder.ask("getWebhook", webhook_id=made)
    recorder.ask("updateWebhook", body={"description": "our dashboard"}, webhook_id=made)
    recorder.ask("rotateWebhookSecret", webhook_id=made)
    recorder.ask("deleteWebhook", webhook_id=made)
    receiving = recorder.ask("createWebhook", body={"url": url})["id"]
    recorder.ask("testWebhook", webhook_id=receiving)
    return receiving


def record_deliveries(recorder: Recorder, webhook_id: str) -> None:
    """Once everything else was asked, so that there was time to deliver."""
    found = recorder.ask("listWebhookDeliveries", query={"limit": 1}, webhook_id=webhook_id)
    last = found["data"][0]
    recorder.ask("redeliverWebhook", webhook_id=webhook_id, delivery_id=last["id"])
    recorder.ask("recoverWebhook", body={"since": last["created_at"]}, webhook_id=webhook_id)


def main() -> None:
    with local_stack() as stack, receiver() as url:
        headers = {"Authorization": f"Bearer {stack.credentials.api_key}"}
        with httpx.Client(base_url=stack.base_url, headers=headers, timeout=TIMEOUT) as api:
            recorder = Recorder(api)
            record_account(recorder)
            webhook_id = record_webhook(recorder, url)
            record_run(recorder)
            record_jobs(recorder)
            record_deliveries(recorder, webhook_id)
    missing = recorder.missing()
    assert not missing, f"ask these in {__file__}, too: {', '.join(missing)}"
    found = recorder.in_order()
    lasting = [model["id"] for model in found["listBaseModels"]["answer"]["data"]]
    neutral = Neutral([found], lasting)
    EXAMPLES.write_text(formatted(neutral.value(found)))


def formatted(examples: dict[str, Json]) -> str:
    return json.dumps(examples, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
