"""Bring a database to the current schema: roles, then every schema file, each of them once."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from libs.eventlog.connection import Connection, connect

ROLES = ("gateway", "billing", "scheduler", "artifact", "webhooks", "telemetry", "relay")
MIGRATION_TIMEOUT = 3_600.0  # seconds; a change of a large table takes what it takes
MIGRATION_LOCK = 7_205_759  # an arbitrary constant: two migrations at once take turns
ROOT = Path(__file__).parents[2]


class SchemaChanged(Exception):
    """A schema file differs from the one this database was made from."""


def schema_files() -> list[Path]:
    """In order: the log first, then the services by name; of each, ``schema.sql`` and then what
    changed later, ``schema_002_….sql`` and so on."""
    return [
        file
        for folder in (ROOT / "libs/eventlog", *sorted(ROOT.glob("services/*/")))
        for file in (*folder.glob("schema.sql"), *sorted(folder.glob("schema_[0-9]*.sql")))
    ]


async def migrate(admin_dsn: str, passwords: Mapping[str, str]) -> list[str]:
    """Create the roles (with ``passwords``, by role name) and apply what is missing, each file in a
    transaction of its own: the release before works meanwhile, and one that took the locks of all
    files would wait in a circle with it.

    Returns the files applied. Raises SchemaChanged when an applied file was edited afterwards:
    a later change of the schema is a new numbered file, never an edit.
    """
    connection = await connect(admin_dsn, command_timeout=MIGRATION_TIMEOUT)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
        async with connection.transaction():
            for role in ROLES:
                await _ensure_role(connection, role, passwords.get(role))
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS public.schema_migration"
                " (file text PRIMARY KEY, sha256 text NOT NULL,"
                "  applied_at timestamptz NOT NULL DEFAULT now())"
            )
        return await _apply_files(connection)
    finally:
        await connection.close()


async def _ensure_role(connection: Connection, role: str, password: str | None) -> None:
    exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
    if not exists:
        await connection.execute(f'CREATE ROLE "{role}"')
    if password:
        literal = await connection.fetchval("SELECT quote_literal($1::text)", password)
        await connection.execute(f'ALTER ROLE "{role}" LOGIN PASSWORD {literal}')


async def _apply_files(connection: Connection) -> list[str]:
    applied: list[str] = []
    for path in schema_files():
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text()
        digest = hashlib.sha256(text.encode()).hexdigest()
        known = await connection.fetchval(
            "SELECT sha256 FROM public.schema_migration WHERE file = $1", name
        )
        if known is None:
            async with connection.transaction():
                await connection.execute(text)
                await connection.execute(
                    "INSERT INTO public.schema_migration (file, sha256) VALUES ($1, $2)",
                    name,
                    digest,
                )
            applied.append(name)
        elif known != digest:
            raise SchemaChanged(
                f"{name} was changed after this database was made from it;"
                " put the change into a new file beside it"
            )
    return applied
