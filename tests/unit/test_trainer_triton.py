"""Kernels for a card, where there is none."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_cards_kernels_are_their_formulas() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(Path(__file__).with_name("interpreted_kernels.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert ".........." in done.stdout
