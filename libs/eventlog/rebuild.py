"""Re-deriving a read model: every row computed again from the log, and what that changed."""

from collections.abc import AsyncIterable, Sequence
from typing import Any

from msgspec import Struct

from libs.eventlog.connection import Connection


class Rebuilt(Struct, frozen=True, kw_only=True):
    """``changed`` counts the rows that were missing, superfluous or different: 0 in health."""

    table: str
    rows: int
    changed: int


async def replace_rows(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    rows: AsyncIterable[tuple[Any, ...]],
) -> Rebuilt:
    """Make ``columns`` of ``table`` equal to ``rows``, in the caller's transaction.

    Writers of the table wait meanwhile; readers see the old rows until the commit. ``rows`` come
    from another connection, since this one is busy copying. Memory stays flat.
    """
    names = ", ".join(columns)
    await connection.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
    await connection.execute(
        f"CREATE TEMP TABLE rebuilt ON COMMIT DROP AS SELECT {names} FROM {table} WITH NO DATA"
    )
    await connection.copy_records_to_table("rebuilt", records=rows, columns=columns)
    # Row comparison by equality lets PostgreSQL hash-join. To it a row with a null equals none: one
    # of a table that has had a column for a shorter time than the row is written anew, as it should
    # be, and ``rows`` have no null.
    mine, theirs = (", ".join(f"{side}.{name}" for name in columns) for side in ("m", "r"))
    wrong = await connection.fetchval(
        f"WITH gone AS (DELETE FROM {table} m WHERE NOT EXISTS"
        f" (SELECT FROM rebuilt r WHERE ({mine}) = ({theirs})) RETURNING 1)"
        " SELECT count(*) FROM gone"
    )
    added = await connection.fetchval(
        f"WITH added AS (INSERT INTO {table} ({names}) SELECT {names} FROM rebuilt r"
        f" WHERE NOT EXISTS (SELECT FROM {table} m WHERE ({mine}) = ({theirs})) RETURNING 1)"
        " SELECT count(*) FROM added"
    )
    rows_now = await connection.fetchval("SELECT count(*) FROM rebuilt")
    await connection.execute("DROP TABLE rebuilt")
    return Rebuilt(table=table, rows=rows_now, changed=max(wrong, added))
