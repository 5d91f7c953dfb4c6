"""A whole job as one exported trace: from its request, over every service, to the webhook."""

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from msgspec import Struct

from deploy.local.services import TINY_LLAMA, WITH_DATABASE
from libs.observability.exported_spans import Line
from tests.e2e.receiving import Receiver, receiving
from tests.support.journey import Json, User, sample_rows
from tests.support.local_stack import LocalStack, eventually
from tests.support.spans import read_spans, rows_of, table

CLIENTS_SPAN = "00f067aa0ba902b7"
PATIENCE = 90.0  # seconds, until the last span has been written
ROWS, STEPS = 40, 6

ONE_JOB = table("""
 gateway   SERVER   POST /v1/jobs                         <- the client
 gateway   CLIENT   rpc.billing.reserve                   <- POST /v1/jobs
 billing   SERVER   rpc.billing.reserve                   <- rpc.billing.reserve
 relay     PRODUCER publish payment.reserved.v1           <- rpc.billing.reserve
 gateway   INTERNAL append                                <- POST /v1/jobs
 relay     PRODUCER publish job.submitted.v1              <- POST /v1/jobs
 billing   CONSUMER process billing-job-submitted-v1      <- POST /v1/jobs
 scheduler CONSUMER process scheduler-job-submitted-v1    <- POST /v1/jobs
 telemetry CONSUMER process telemetry-job-submitted-v1    <- POST /v1/jobs
 webhooks  CONSUMER process webhooks-job-submitted-v1     <- POST /v1/jobs
 webhooks  CLIENT   POST                                  <- process webhooks-job-submitted-v1
 scheduler INTERNAL grant lease                           <- POST /v1/jobs
 relay     PRODUCER publish job.leased.v1                 <- grant lease
 trainer   INTERNAL attempt                               <- POST /v1/jobs
 trainer   INTERNAL fetch inputs                          <- attempt
 trainer   CLIENT   rpc.artifact.inputs                   <- fetch inputs
 artifact  SERVER   rpc.artifact.inputs                   <- rpc.artifact.inputs
 trainer   INTERNAL train                                 <- attempt
 telemetry CONSUMER process telemetry-logs                <- train
 telemetry CONSUMER process telemetry-metrics             <- train
 trainer   PRODUCER report started                        <- train
 scheduler CONSUMER process scheduler-reports             <- report started
 relay     PRODUCER publish job.started.v1                <- process scheduler-reports
 telemetry CONSUMER process telemetry-job-started-v1      <- process scheduler-reports
 webhooks  CONSUMER process webhooks-job-started-v1       <- process scheduler-reports
 webhooks  CLIENT   POST                                  <- process webhooks-job-started-v1
 trainer   INTERNAL upload archive                        <- attempt
 trainer   CLIENT   rpc.artifact.upload_url               <- upload archive
 artifact  SERVER   rpc.artifact.upload_url               <- rpc.artifact.upload_url
 trainer   INTERNAL upload adapter                        <- attempt
 trainer   CLIENT   rpc.artifact.upload_url               <- upload adapter
 trainer   INTERNAL upload config                         <- attempt
 trainer   CLIENT   rpc.artifact.upload_url               <- upload config
 trainer   INTERNAL upload metadata                       <- attempt
 trainer   CLIENT   rpc.artifact.upload_url               <- upload metadata
 trainer   INTERNAL upload tokenizer                      <- attempt
 trainer   CLIENT   rpc.artifact.upload_url               <- upload tokenizer
 trainer   PRODUCER report finished                       <- attempt
 scheduler CONSUMER process scheduler-reports             <- report finished
 relay     PRODUCER publish job.trained.v1                <- process scheduler-reports
 artifact  CONSUMER process artifact-job-trained-v1       <- process scheduler-reports
 artifact  INTERNAL read result back                      <- process artifact-job-trained-v1
 artifact  INTERNAL append                                <- process artifact-job-trained-v1
 relay     PRODUCER publish artifact.published.v1         <- process artifact-job-trained-v1
 scheduler CONSUMER process scheduler-artifact-published-v1 <- process artifact-job-trained-v1
 relay     PRODUCER publish job.completed.v1              <- process scheduler-artifact-published-v1
 telemetry CONSUMER process telemetry-job-completed-v1    <- process scheduler-artifact-published-v1
 webhooks  CONSUMER process webhooks-job-completed-v1     <- process scheduler-artifact-published-v1
 webhooks  CLIENT   POST                                  <- process webhooks-job-completed-v1
 billing   CONSUMER process billing-job-completed-v1      <- process scheduler-artifact-published-v1
 relay     PRODUCER publish payment.captured.v1           <- process billing-job-completed-v1
""")
"""Every span of a job that needed one attempt: a consumer's parent is what appended its event."""

PLANTED = {
    "a row": "planted-row-3f9c",
    "a file": "planted-file-8a1d.jsonl",
    "a card's number": "4242424242424242",
    "a path": "planted-path-51be",
    "a query": "planted-query-77aa",
    "a receiver's address": "planted-hook-20cd",
    "baggage": "planted-baggage-9e04",
    "a state": "planted-state-6b12",
}


class Told(Struct, kw_only=True):
    """A job that has completed, what was secret about it, and its trace."""

    user: User
    job_id: str
    webhook: Json
    spans: list[Line]
    receiver: Receiver

    def all(self, name: str) -> list[Line]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Line:
        (found,) = self.all(name)
        return found


@pytest.fixture(scope="module")
def told(stack: LocalStack) -> Iterator[Told]:
    with receiving() as receiver:
        yield tell(stack, receiver)


def tell(stack: LocalStack, receiver: Receiver) -> Told:
    user = User(stack, stack.new_account(100_000)[1])
    address = f"{receiver.url}?token=" + PLANTED["a receiver's address"]
    webhook = user.api.post("/v1/webhooks", json={"url": address}).json()
    said = [{"role": "user", "content": PLANTED["a row"]}, {"role": "assistant", "content": "Yes."}]
    rows = sample_rows(ROWS) + json.dumps({"messages": said}).encode() + b"\n"
    stored = user.api.post("/v1/datasets", files={"file": (PLANTED["a file"], rows)})
    assert stored.status_code == 201, stored.text
    trace_id = uuid4().hex
    answer = user.api.post(
        "/v1/jobs",
        headers={
            "traceparent": f"00-{trace_id}-{CLIENTS_SPAN}-01",
            "tracestate": "vendor=" + PLANTED["a state"],
            "baggage": "user=" + PLANTED["baggage"],
        },
        json={
            "type": "finetune",
            "idempotency_key": str(uuid4()),
            "base_model_id": TINY_LLAMA,
            "dataset_id": stored.json()["id"],
            "hyperparams": {"steps": STEPS},
        },
    )
    assert answer.status_code == 201, answer.text
    user.until_completed(answer.json()["id"])

    def spans() -> list[Line]:
        return [span for span in read_spans(stack.spans) if span.trace_id == trace_id]

    eventually(
        lambda: ONE_JOB - rows_of(spans(), outside=CLIENTS_SPAN),
        lambda missing: not missing,
        PATIENCE,
        "a whole trace",
    )
    return Told(
        user=user, job_id=answer.json()["id"], webhook=webhook, spans=spans(), receiver=receiver
    )


def test_a_whole_job_is_one_tree_of_spans_over_all_services(told: Told) -> None:
    assert rows_of(told.spans, outside=CLIENTS_SPAN) == ONE_JOB
    assert {span.service for span in told.spans} == {
        f"tuneyard-{name}" for name in (*WITH_DATABASE, "trainer")
    }


def test_no_span_of_a_job_that_went_well_failed(told: Told) -> None:
    assert [(span.name, span.error) for span in told.spans if span.error] == []


def test_spans_say_whose_they_are_and_how_it_went(told: Told) -> None:
    request = told.one("POST /v1/jobs").attributes
    assert request["http.route"] == "/v1/jobs"
    assert request["http.response.status_code"] == 201
    assert {"tuneyard.request_id", "tuneyard.account_id"} <= set(request)
    attempt, train = told.one("attempt").attributes, told.one("train").attributes
    assert (attempt["tuneyard.epoch"], attempt["tuneyard.report"]) == ("1", "finished")
    assert (train["tuneyard.outcome"], train["tuneyard.step"]) == ("finished", STEPS)
    assert train["tuneyard.tokens_processed"] > 0
    assert {s.attributes["http.response.status_code"] for s in told.all("POST")} == {200}
    known = [span.attributes.get("tuneyard.job_id") for span in told.spans]
    assert set(known) == {told.job_id, None}
    assert known.count(told.job_id) > known.count(None)


def test_a_log_line_names_the_span_that_it_was_written_in(stack: LocalStack, told: Told) -> None:
    for service, event, span in (
        ("gateway", "job submitted", "POST /v1/jobs"),
        ("trainer-0", "training process started", "train"),
    ):
        lines = (stack.folder / "logs" / f"{service}.log").read_text().splitlines()
        (line,) = [json.loads(line) for line in lines if told.job_id in line and event in line]
        assert line["span_id"] == told.one(span).span_id


def test_whoever_is_sent_a_webhook_is_not_told_of_the_trace(told: Told) -> None:
    assert told.receiver.came
    for headers, _ in told.receiver.came:
        assert {"traceparent", "tracestate", "baggage"} & set(headers) == set()


def test_what_a_client_gets_wrong_is_no_failure_of_the_platform(
    stack: LocalStack, told: Told
) -> None:
    card, path, query = (PLANTED[name] for name in ("a card's number", "a path", "a query"))
    order = {"type": "finetune", "base_model_id": card, "dataset_id": card}
    refused = [
        told.user.api.post("/v1/jobs", json=order),
        told.user.api.get(f"/v1/jobs/{path}"),
        told.user.api.get(f"/{path}?q={query}"),
    ]
    assert all(400 <= answer.status_code < 500 for answer in refused)
    traces = {answer.headers["traceparent"][3:35] for answer in refused}
    spans = eventually(
        lambda: [s for s in read_spans(stack.spans) if s.trace_id in traces and s.kind == "SERVER"],
        lambda found: {span.trace_id for span in found} == traces,
        PATIENCE,
        "the spans of what was refused",
    )
    assert {span.name for span in spans} == {"POST /v1/jobs", "GET /v1/jobs/{job_id}", "GET"}
    assert {span.parent_id for span in spans} == {None}
    assert [span.error for span in spans if span.error] == []
    assert_nothing_planted_is_told(stack, told)


def assert_nothing_planted_is_told(stack: LocalStack, told: Told) -> None:
    """After all of the above has been recorded."""
    key = told.user.headers["Authorization"].removeprefix("Bearer ")
    secrets = PLANTED | {"a key": key, "a webhook's secret": told.webhook["secret"]}
    written = "".join(file.read_text() for file in stack.spans.glob("*.jsonl"))
    assert told.job_id in written
    assert [name for name, secret in secrets.items() if secret in written] == []
