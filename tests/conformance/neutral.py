"""Real answers without what is a machine's, a moment's or a secret's: the same at every recording.

Ids, hashes and times keep what they tell: equal ones stay equal, earlier ones earlier, and an
expiry stays as many days away. What is as fast as the machine is gets a plausible number.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

IDS = UUID("9a1f0c7e-3b52-5d64-8e19-c0ffee5eed00")  # of the ids that stand for real ones
BEGIN = datetime(2026, 3, 19, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DIGITS = 4  # of a float: further ones differ between processors

UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SHA256_TEXT = re.compile(r"[0-9a-f]{64}")
TIME_TEXT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

ARCHIVE = ".tar.gz"
ARCHIVE_GRAIN = 10_000  # bytes; how well it packs differs a little each time
MACHINE = "http://127.0.0.1:"  # where everything listens that a recording talks to

PLAUSIBLE: Mapping[str, Any] = {
    "key": "tuneyard_your-key",
    "prefix": "tuneyard_your-k",
    "secret": "whsec_dGhlIHNlY3JldCBvZiB5b3VyIG93biB3ZWJob29rLi4=",
    "latency_ms": 42,
    "next_cursor": "eyJjcmVhdGVkX2F0IjoiMjAyNi0wMy0xOVQxMjowMDowMFoifQ",
    "gpu_seconds": 14.2,
    "expected_duration_seconds": 19,
    "throughput": 5180.0,
    "device": "cpu",
}
"""By field: what differs at each recording, where it is not null."""


class Neutral:
    """One recording's substitutions. ``lasting`` are ids that are the same everywhere."""

    def __init__(self, texts: Iterable[Any], lasting: Iterable[str]) -> None:
        self._ids = {one: one for one in lasting}
        self._hashes: dict[str, str] = {}
        moments = [datetime.fromisoformat(text) for text in _times(list(texts))]
        first = min(moments)
        self._days = {moment: round((moment - first) / DAY) for moment in moments}
        rest = sorted({moment - days * DAY for moment, days in self._days.items()})
        self._rank = {moment: index for index, moment in enumerate(rest)}

    def value(self, value: Any, field: str = "") -> Any:
        if field in PLAUSIBLE and value is not None:
            return PLAUSIBLE[field]
        match value:
            case dict():
                shown = {self._text(name): self.value(each, name) for name, each in value.items()}
                name = shown.get("name") or shown.get("filename")
                if isinstance(name, str) and name.endswith(ARCHIVE):
                    shown["size_bytes"] = shown["size_bytes"] // ARCHIVE_GRAIN * ARCHIVE_GRAIN
                return shown
            case list():
                return [self.value(each, field) for each in value]
            case float():
                return float(f"{value:.{DIGITS}g}")
            case str():
                return self._text(value)
            case _:
                return value

    def _text(self, text: str) -> str:
        if text.startswith(MACHINE):
            name = text.partition("?")[0].rpartition("/")[2]
            return f"https://tuneyard.example/files/{name}?signature=…"
        if TIME_TEXT.fullmatch(text):
            return self._time(datetime.fromisoformat(text))
        text = UUID_TEXT.sub(lambda found: self._id(found[0]), text)
        return SHA256_TEXT.sub(lambda found: self._hash(found[0]), text)

    def _time(self, moment: datetime) -> str:
        days = self._days[moment]
        shown = BEGIN + days * DAY + timedelta(seconds=self._rank[moment - days * DAY])
        return shown.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _id(self, real: str) -> str:
        return self._ids.setdefault(real, str(uuid5(IDS, str(len(self._ids)))))

    def _hash(self, real: str) -> str:
        name = str(len(self._hashes))
        return self._hashes.setdefault(real, hashlib.sha256(name.encode()).hexdigest())


def _times(value: Any) -> list[str]:
    """Every time within, at any depth."""
    match value:
        case dict():
            return _times(list(value.values()))
        case list():
            return [time for each in value for time in _times(each)]
        case str() if TIME_TEXT.fullmatch(value):
            return [value]
        case _:
            return []
