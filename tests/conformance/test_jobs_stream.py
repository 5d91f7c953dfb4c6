"""The live stream of a real job, by the command line of docs/stream.md."""

import json
from typing import Any

from tests.conformance.conftest import Platform

FOLLOW = (
    'curl -N {host}/v1/jobs/{job}/stream -H "Authorization: Bearer tuneyard_your-key"'
    ' -H "Last-Event-ID: {last}"'
)
TINY = {"steps": 4, "seq_len": 64, "batch_size": 2, "lora_rank": 4}


def messages_in(text: str) -> list[tuple[int, str, Any]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if "data" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_a_job_is_followed_from_its_submission_to_its_end_and_again_from_anywhere(
    platform: Platform, words: dict[str, str]
) -> None:
    named = {"base_model_id": words["<base model>"], "dataset_id": words["<data set>"]}
    job_id = platform.submit("finetune", TINY, **named)

    def follow(last: int) -> Any:
        line = FOLLOW.format(host="https://api.tuneyard.example", job=job_id, last=last)
        return platform.terminal.run(line)

    answer = follow(0)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    seen = messages_in(answer.text)
    assert [data["type"] for _, kind, data in seen if kind == "state"] == [
        *("job.queued", "job.running", "job.completed"),
    ]
    assert [kind for _, kind, _ in seen[-2:]] == ["state", "done"]

    metrics = platform.api.get(f"/v1/jobs/{job_id}/metrics").json()
    told = [point for _, kind, data in seen if kind == "metrics" for point in data["points"]]
    assert told == metrics["points"]
    logs = platform.api.get(f"/v1/jobs/{job_id}/logs").json()
    said = [line for _, kind, data in seen if kind == "log" for line in data["lines"]]
    assert said == logs["lines"]

    middle = len(seen) // 2
    assert messages_in(follow(seen[middle][0]).text) == seen[middle + 1 :]
    assert follow(seen[-1][0]).status_code == 204
