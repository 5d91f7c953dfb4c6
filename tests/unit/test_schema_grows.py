"""The release before goes on working on the new schema: what is applied later only adds."""

import re
from pathlib import Path

import pytest

from libs.eventlog.migrations import ROOT, schema_files

LATER = [file for file in schema_files() if file.name != "schema.sql"]

ADDS = re.compile(
    r"""CREATE\s+(SCHEMA|TABLE|FUNCTION|POLICY|(UNIQUE\s+)?INDEX|TRIGGER)\b
      | INSERT\s+INTO\b | WITH\b.*\bINSERT\s+INTO\b | UPDATE\b
      | GRANT\b | ALTER\s+TABLE\s+\S+\s+ENABLE\s+ROW\s+LEVEL\s+SECURITY$
      | DROP\s+INDEX\b | ALTER\s+TABLE\s+\S+\s+ADD\s+COLUMN\b""",
    re.VERBOSE | re.DOTALL,
)
NEEDED = re.compile(r"\bNOT\s+NULL\b(?!.*\bDEFAULT\b)", re.DOTALL)

UPGRADE = "from before the first release: nobody upgrades across it with jobs running"
LOOKED_AT = {
    "libs/eventlog/schema_002_models.sql": UPGRADE,
    "services/billing/schema_002_spending.sql": "more kinds of entries are taken, none less",
    "services/billing/schema_003_cards.sql": UPGRADE,
    "services/billing/schema_005_write_off.sql": "more kinds of entries are taken, none less",
    "services/scheduler/schema_003_turns.sql": UPGRADE,
    "services/webhooks/schema_003_sending.sql": "how often a table is vacuumed",
    "services/webhooks/schema_004_answers.sql": UPGRADE,
    "services/webhooks/schema_005_removed.sql": "a row that was removed is no longer read",
}
"""Files with a statement that this can't judge, and why the release before can live with it."""


def statements(text: str) -> list[str]:
    """Without comments; a function's body is one statement with it."""
    bare = re.sub(r"--[^\n]*", "", text)
    parts = re.split(r"(\$\$.*?\$\$)", bare, flags=re.DOTALL)
    kept = ["".join(part if n % 2 == 0 else "$$" for n, part in enumerate(parts))]
    return [one.strip() for one in ";".join(kept).split(";") if one.strip()]


def takes_something_away(text: str) -> list[str]:
    """The statements under which code of the release before may fail."""
    return [
        one
        for one in statements(text)
        if not ADDS.match(one) or (re.match(r"ALTER\s+TABLE", one) and NEEDED.search(one))
    ]


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_change_of_the_schema_only_adds(path: Path) -> None:
    found = takes_something_away(path.read_text())
    known = path.relative_to(ROOT).as_posix() in LOOKED_AT
    assert bool(found) == known, found


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE log.job DROP COLUMN state",
        "ALTER TABLE log.job ALTER COLUMN label SET NOT NULL",
        "ALTER TABLE log.job RENAME COLUMN state TO body",
        "ALTER TABLE log.job ADD COLUMN hue text NOT NULL",
        "ALTER TABLE log.job ADD CHECK (version > 1)",
        "DROP TABLE log.inbox",
        "REVOKE SELECT ON log.job FROM gateway",
    ],
)
def test_what_the_release_before_would_trip_over_is_found(statement: str) -> None:
    assert takes_something_away(f"-- fine;\n{statement};") == [statement]


def test_what_it_does_not_see_is_not() -> None:
    text = "ALTER TABLE log.job ADD COLUMN hue text NOT NULL DEFAULT 'red'; CREATE TABLE a (b int);"
    assert takes_something_away(text) == []
