"""A real HTTP server that answers as a recorded Kubernetes API did: tests/support/kubernetes."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.failing_http import RESETS, Answer, Asked, failing_server, says

STORIES = Path(__file__).with_name("kubernetes")
PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/tuneyard/trainjobs"
TOKEN = "first"


class Recording:
    """One story. ``does`` has what the test does at each of its points, by name."""

    def __init__(self, story: str, does: dict[str, Callable[[], None]]) -> None:
        self._left = [
            exchange
            for told in json.loads((STORIES / f"{story}.json").read_text())
            for exchange in [told] * (1 + told.get("again", 0))
        ]
        self._does = does
        self.asked: list[Asked] = []
        self.wrong: list[str] = []

    @property
    def is_over(self) -> bool:
        return not self._left

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        told = self._left[0] if self._left else {"ask": "nothing more", "answer": "reset"}
        wanted = f"{told['ask']} with {told.get('token', TOKEN)}"
        method, path = told["ask"].partition(" ")[::2]
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if (asked.method, asked.path, token) != (method, PATH + path, told.get("token", TOKEN)):
            # The client would try again, for ever; the test sees it by `wrong`.
            self.wrong.append(f"{asked.method} {asked.path} with {token} instead of {wanted}")
            return says({"message": self.wrong[-1]}, "400 Bad Request")
        self._left.pop(0)
        if "until" in told:
            self._does[told["until"]]()
        if told["answer"] == "reset":
            return RESETS
        status = told["answer"]["status"]
        return says(body_of(told["answer"]), f"{status} As Recorded")


def body_of(answer: dict[str, Any]) -> Any:
    if "body" in answer:
        return answer["body"]
    return merged(json.loads((STORIES / "trainjob.json").read_text()), answer["trainjob"])


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, without its deletions."""
    if not isinstance(patch, dict):
        return patch
    return {**target, **{name: merged(target.get(name, {}), of) for name, of in patch.items()}}


def present(credentials: Path) -> None:
    """A folder as Kubernetes mounts it."""
    credentials.mkdir()
    (credentials / "namespace").write_text("tuneyard")
    (credentials / "token").write_text(f"{TOKEN}\n")


@asynccontextmanager
async def recorded(
    story: str, credentials: Path, **does: Callable[[], None]
) -> AsyncIterator[tuple[str, Recording]]:
    """(its address, the recording). Everything of it must have been asked for at the end."""
    present(credentials)
    recording = Recording(story, {name.replace("_", " "): of for name, of in does.items()})
    async with failing_server(recording.answer) as server:
        yield server.url, recording
    assert not recording.wrong
    assert recording.is_over
