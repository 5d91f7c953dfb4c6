"""The house's own rules that no linter knows."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 300  # a sitting
MAX_SCRIPT_LINES = 500  # a training script is read downwards, in one piece
SCRIPTS = {ROOT / f"services/trainer/{name}.py" for name in ("finetune", "grow", "contract")}
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}

SOURCES = sorted(
    path for top in ("libs", "services", "deploy") for path in (ROOT / top).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_fits_into_a_sitting_and_its_name_says_something(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= (MAX_SCRIPT_LINES if path in SCRIPTS else MAX_LINES)
    assert path.stem not in SAYS_NOTHING


def test_every_service_that_consumes_tries_its_dead_letters_again() -> None:
    """Otherwise `dead-letters retry` would wait for ever for that one."""
    mains = [path.read_text() for path in (ROOT / "services").glob("*/__main__.py")]
    consuming = [text for text in mains if "consume" in text and "streams=" in text]
    assert len(consuming) >= 5
    assert [text for text in consuming if "letters=letters" not in text] == []
