"""The Runs API document's table of errors: each code at its status, at the right moment."""

import socket
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import pytest

from tests.conformance.conftest import POOR_CENTS, Platform, platform_for
from tests.conformance.shapes import expect, refused
from tests.conformance.terminal import KEY
from tests.conformance.test_runs_api import (
    CREATED,
    DOWNLOAD,
    GET_BALANCE,
    GET_RUN,
    LIST_MODELS,
    LIST_RUNS,
    MODEL,
    SUBMIT,
    SUBMIT_WITH_KEY,
)
from tests.support.local_stack import LocalStack

EVERY_LINE = {
    "models": LIST_MODELS,
    "submit": SUBMIT,
    "list": LIST_RUNS,
    "run": GET_RUN,
    "download": DOWNLOAD,
    "balance": GET_BALANCE,
}
NOBODYS = {"YOUR_RUN_ID": str(UUID(int=7))}
LIMIT_BYTES = 600 * 10**6
ROOM = 2 * 1024 * 1024  # for the other fields of the form, generously
ANSWER_SECONDS = 60.0
FEW = 6  # requests a minute
MINUTE = 60  # seconds


def announced(platform: Platform, api_key: str, length: int) -> httpx.Response:
    """The answer to the head of a submission of ``length`` bytes, none of which is ever sent."""
    where = urlsplit(platform.stack.base_url)
    head = (
        "POST /api/v1/runs HTTP/1.1\r\n"
        f"Host: {where.netloc}\r\n"
        f"Authorization: Bearer {api_key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    with socket.create_connection((where.hostname, where.port), ANSWER_SECONDS) as connection:
        connection.sendall(head.encode())
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"}"):
            more = connection.recv(65536)
            assert more, received
            received += more
    start, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = start.decode("latin-1").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return httpx.Response(int(status_line.split()[1]), headers=headers, content=body)


@pytest.mark.parametrize("name", EVERY_LINE)
@pytest.mark.parametrize("authorization", ["", "Bearer", "Basic dTpw", "Bearer tuneyard_not-one"])
def test_no_line_works_without_a_key(platform: Platform, name: str, authorization: str) -> None:
    stranger = EVERY_LINE[name].replace(
        f"Authorization: Bearer {KEY}", f"Authorization: {authorization}"
    )
    refused(platform.terminal.run(stranger, NOBODYS), 401, "invalid_api_key")


def test_a_strangers_upload_is_refused_unread(platform: Platform) -> None:
    refused(announced(platform, "tuneyard_not-one", LIMIT_BYTES), 401, "invalid_api_key")


def test_more_than_600_mb_are_refused_unread(platform: Platform) -> None:
    key = platform.stack.credentials.api_key
    error = refused(announced(platform, key, LIMIT_BYTES + ROOM), 422, "validation_failed")
    assert "larger" in error["message"]


def test_a_balance_that_is_too_low_is_402(poor: Platform) -> None:
    refused(poor.terminal.run(SUBMIT, MODEL), 402, "insufficient_balance")
    assert poor.terminal.run(GET_BALANCE).json()["balance_cents"] == POOR_CENTS
    assert poor.terminal.run(LIST_RUNS).json()["data"] == []


def test_a_key_used_for_another_file_is_409(platform: Platform) -> None:
    line = SUBMIT_WITH_KEY.replace("550e8400-e29b-41d4-a716-446655440000", str(uuid4()))
    created = expect(platform.terminal.run(line, MODEL), 201, CREATED)
    platform.cancel(created["run_id"])
    (platform.terminal.folder / "other.jsonl").write_text('{"text": "one row"}\n' * 20)
    other = line.replace("@training_data.jsonl", "@other.jsonl")
    refused(platform.terminal.run(other, MODEL), 409, "idempotency_conflict")


@pytest.mark.parametrize("field", ["model_terms_accepted", "data_policy_accepted"])
def test_a_consent_that_is_not_given_is_422(platform: Platform, field: str) -> None:
    line = SUBMIT.replace(f"{field}=true", f"{field}=false")
    refused(platform.terminal.run(line, MODEL), 422, "consent_required")


@pytest.mark.parametrize("name", ["llama-3.1-8b", "no-such-model"])
def test_a_model_that_cannot_be_loaded_is_422(platform: Platform, name: str) -> None:
    refused(platform.terminal.run(SUBMIT, {"llama-3.1-8b": name}), 422, "model_not_available")


@pytest.mark.parametrize(
    ("shown", "sent"),
    [
        ('-F "model_id=llama-3.1-8b" \\\n', ""),
        ('-F "dataset=@training_data.jsonl" \\\n', ""),
        ('-F "model_terms_accepted=true" \\\n', ""),
        ("data_policy_accepted=true", "data_policy_accepted=perhaps"),
        ('-F "model_id', '-F "priority_processing=soon" -F "model_id'),
        ('-F "model_id', '-F "surprise=1" -F "model_id'),
        ("runs \\", 'runs -H "Idempotency-Key: two words" \\'),
    ],
    ids=["no model", "no data set", "no consent", "no boolean", "no priority", "more", "bad key"],
)
def test_a_form_that_is_not_as_described_is_422(platform: Platform, shown: str, sent: str) -> None:
    assert shown in SUBMIT
    refused(platform.terminal.run(SUBMIT.replace(shown, sent), MODEL), 422, "validation_failed")


def test_every_bad_line_of_the_data_set_is_named(platform: Platform) -> None:
    rows = '{"prompt": "a", "completion": "b"}\nnot JSON\n{"prompt": "only"}\n'
    (platform.terminal.folder / "bad.jsonl").write_text(rows)
    line = SUBMIT.replace("@training_data.jsonl", "@bad.jsonl")
    error = refused(platform.terminal.run(line, MODEL), 422, "validation_failed")
    assert [bad["line"] for bad in error["details"]["errors"]] == [2, 3]


def test_a_label_has_at_most_255_characters(platform: Platform) -> None:
    longest = SUBMIT_WITH_KEY.replace("550e8400-e29b-41d4-a716-446655440000", str(uuid4()))
    longest = longest.replace("My first run", "é" * 255)
    created = expect(platform.terminal.run(longest, MODEL), 201, CREATED)
    platform.cancel(created["run_id"])
    shown = platform.terminal.run(GET_RUN, {"YOUR_RUN_ID": created["run_id"]}).json()["run"]
    assert shown["label"] == "é" * 255
    longer = longest.replace("é" * 255, "é" * 256)
    refused(platform.terminal.run(longer, MODEL), 422, "validation_failed")


@pytest.mark.parametrize("line", [GET_RUN, DOWNLOAD], ids=["run", "download"])
@pytest.mark.parametrize("run_id", [NOBODYS["YOUR_RUN_ID"], "YOUR_RUN_ID", "7"])
def test_a_run_that_does_not_exist_is_404(platform: Platform, line: str, run_id: str) -> None:
    refused(platform.terminal.run(line, {"YOUR_RUN_ID": run_id}), 404, "not_found")


def test_another_accounts_run_is_404(platform: Platform, poor: Platform) -> None:
    created = expect(platform.terminal.run(SUBMIT, MODEL), 201, CREATED)
    for line in (GET_RUN, DOWNLOAD):
        answer = poor.terminal.run(line, {"YOUR_RUN_ID": created["run_id"]})
        refused(answer, 404, "not_found")
    platform.cancel(created["run_id"])


def test_a_run_that_is_not_completed_has_no_download(platform: Platform) -> None:
    created = expect(platform.terminal.run(SUBMIT, MODEL), 201, CREATED)
    words = {"YOUR_RUN_ID": created["run_id"]}
    refused(platform.terminal.run(DOWNLOAD, words), 404, "not_found")
    platform.cancel(created["run_id"])
    platform.ended(created["run_id"])
    refused(platform.terminal.run(DOWNLOAD, words), 404, "not_found")


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=five", "cursor=eyJjcmVhdGVkX2F0"])
def test_a_list_takes_a_limit_of_1_to_100_and_its_own_cursors(
    platform: Platform, query: str
) -> None:
    line = LIST_RUNS.replace("/api/v1/runs", f"/api/v1/runs?{query}")
    refused(platform.terminal.run(line), 422, "validation_failed")


def test_too_many_requests_are_429_until_they_have_slowed_down(
    stack: LocalStack, tmp_path: Path
) -> None:
    account = stack.run("account", "create", "hasty", "--requests-per-minute", str(FEW)).strip()
    hasty = platform_for(stack, tmp_path, stack.run("key", "create", account).strip())
    answers = [hasty.terminal.run(GET_BALANCE)]
    # A tenth of a minute brings another one: more than a slow machine's curl takes.
    while answers[-1].status_code == 200 and len(answers) <= 5 * FEW:
        answers.append(hasty.terminal.run(GET_BALANCE))
    refused(answers[-1], 429, "rate_limited")
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= MINUTE
    for answer in answers:
        assert answer.headers["RateLimit"]
        assert answer.headers["RateLimit-Policy"]
