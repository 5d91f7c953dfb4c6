"""Without a card nothing here means anything, so nothing here runs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from services.trainer.train import settle
from tests.gpu import CARD
from tests.support.training import chats, write_rows


def pytest_sessionstart() -> None:
    if CARD.type == "cuda" and not torch.cuda.is_available():
        pytest.exit("no CUDA device: these tests are about a card, and there is none here", 1)
    # As a training process has it before CUDA starts: it is read once.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", chats())


@pytest.fixture
def as_in_training() -> Iterator[None]:
    """The same numbers each time, as a training process has them."""
    settle(2)
    yield
    torch.use_deterministic_algorithms(False)
