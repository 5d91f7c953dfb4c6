"""What the documentation shows is the file that the tests run."""

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_of_a_subscriber_is_shown_as_it_is() -> None:
    example = (DOCS / "examples" / "completed_jobs.py").read_text()
    assert f"```python\n{example}```\n" in (DOCS / "subscribers.md").read_text()
