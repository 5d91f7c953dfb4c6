"""On Kubernetes roles and database are made by an operator, and their owner migrates."""

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest
from msgspec import Struct

from deploy.local import postgres as local
from deploy.operator import role_passwords
from libs.eventlog.migrations import ROLES, migrate, schema_files
from tests.support.stack import Database, Postgres


class Installation(Struct, frozen=True, kw_only=True):
    name: str
    dsn: str


@pytest.fixture
async def installation(postgres: Postgres, database: Database) -> AsyncIterator[Installation]:
    """A database and its owner, who may do nothing else. The roles are there already."""
    assert database.passwords.keys() == set(ROLES)
    name = f"owned_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(postgres.admin_dsn)
    await admin.execute(f"CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEROLE PASSWORD 'owner'")
    await admin.execute(f"CREATE DATABASE {name} OWNER {name}")
    yield Installation(
        name=name,
        dsn=local.dsn(role=name, password="owner", port=postgres.port, database=name),
    )
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.execute(f"DROP ROLE {name}")
    await admin.close()


async def test_the_owner_can_migrate_and_each_service_finds_what_it_needs(
    postgres: Postgres, installation: Installation
) -> None:
    applied = await migrate(installation.dsn, role_passwords({}))
    assert len(applied) == len(schema_files())
    assert await migrate(installation.dsn, role_passwords({})) == []
    for role in ROLES:
        connection = await asyncpg.connect(
            local.dsn(
                role=role,
                password=postgres.passwords[role],
                port=postgres.port,
                database=installation.name,
            )
        )
        assert await connection.fetchval("SELECT count(*) FROM log.event") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DROP TABLE log.event")
        await connection.close()
