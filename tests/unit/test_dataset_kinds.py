"""What an upload accepts is what training reads: both see the same kind in a first row."""

import json
from contextlib import suppress
from itertools import combinations

import pytest

from services.gateway.upload.jsonl import kind_of
from services.trainer.rows import DatasetError, detect_kind

KEYS = (
    *("messages", "prompt", "completion", "chosen", "rejected"),
    *("instruction", "output", "input", "text", "other"),
)
ROWS = [keys for count in range(len(KEYS) + 1) for keys in combinations(KEYS, count)]


@pytest.mark.parametrize("keys", ROWS, ids="-".join)
def test_gateway_and_trainer_agree_on_the_kind_of_a_row(keys: tuple[str, ...]) -> None:
    line = json.dumps(dict.fromkeys(reversed(keys), "x")).encode()
    read = None
    with suppress(DatasetError):
        read = detect_kind(line)
    assert read == kind_of(line)
