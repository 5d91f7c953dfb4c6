"""The operator's commands, on a migrated database."""

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg

from services.gateway.access.keys import CACHE_SECONDS, revoke_key
from tests.support.stack import Database

PEPPER = "00" * 32


async def operate(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "deploy.server", *arguments],
        env={"TUNEYARD_DATABASE_URL": database.admin_dsn, "TUNEYARD_KEY_PEPPER": PEPPER},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


async def test_an_operator_opens_an_account_gives_it_a_key_and_money(database: Database) -> None:
    account_id = (await operate(database, "account", "create", "Ada")).stdout.strip()
    key = (await operate(database, "key", "create", account_id, "--name", "laptop")).stdout.strip()
    granted = await operate(database, "grant", account_id, "2500")

    assert UUID(account_id)
    assert key.startswith("tuneyard_")
    assert granted.stdout == f"{account_id} can spend 2500 cents\n"
    connection = await asyncpg.connect(database.admin_dsn)
    stored = await connection.fetch("SELECT * FROM gateway.api_key")
    await connection.close()
    assert key not in str(stored)


async def test_a_key_is_listed_by_its_beginning_and_revoked_once(database: Database) -> None:
    account_id = (await operate(database, "account", "create", "Bob")).stdout.strip()
    key = (await operate(database, "key", "create", account_id, "--name", "ci")).stdout.strip()

    listed = (await operate(database, "key", "list", account_id)).stdout
    key_id = listed.split()[0]
    revoked = await operate(database, "key", "revoke", key_id)
    again = await operate(database, "key", "revoke", key_id)

    assert "active" in listed
    assert key not in listed
    assert key[:12] in listed
    assert revoked.returncode == 0
    assert (again.returncode, again.stdout) == (1, "")
    assert f"no active key {key_id}" in again.stderr
    assert "revoked" in (await operate(database, "key", "list", account_id)).stdout


async def test_a_key_is_made_with_the_scopes_and_the_life_that_were_asked_for(
    database: Database,
) -> None:
    account_id = (await operate(database, "account", "create", "Cy")).stdout.strip()
    await operate(
        database, "key", "create", account_id, "--scopes", "write,read", "--expires-days", "7"
    )

    connection = await asyncpg.connect(database.admin_dsn)
    stored = await connection.fetchrow(
        "SELECT scopes, expires_at - created_at AS life FROM gateway.api_key WHERE account_id = $1",
        UUID(account_id),
    )
    await connection.close()
    assert stored is not None
    assert (stored["scopes"], stored["life"].days) == (["read", "write"], 7)
    listed = (await operate(database, "key", "list", account_id)).stdout
    assert "active until" in listed
    assert "read,write" in listed
    refused = await operate(database, "key", "create", account_id, "--scopes", "read,root")
    assert refused.returncode == 1
    assert "--scopes takes some of read,write,billing,admin" in refused.stderr


async def test_an_account_is_given_a_rate_of_its_own_and_its_plans_again(
    database: Database,
) -> None:
    made = await operate(database, "account", "create", "Di", "--requests-per-minute", "5000")
    account_id = made.stdout.strip()

    async def rate() -> int | None:
        connection = await asyncpg.connect(database.admin_dsn)
        found: int | None = await connection.fetchval(
            "SELECT requests_per_minute FROM gateway.account WHERE id = $1", UUID(account_id)
        )
        await connection.close()
        return found

    assert await rate() == 5_000
    done = await operate(database, "account", "limit", account_id, "70")
    assert (await rate(), done.stdout) == (70, f"{account_id} may send 70 requests a minute\n")
    await operate(database, "account", "limit", account_id)
    assert await rate() is None
    assert (await operate(database, "account", "limit", account_id, "0")).returncode != 0


async def test_revoking_returns_when_every_gateway_has_forgotten_the_key(
    database: Database,
) -> None:
    account_id = (await operate(database, "account", "create", "Ed")).stdout.strip()
    await operate(database, "key", "create", account_id)
    connection = await asyncpg.connect(database.admin_dsn)
    key_id = await connection.fetchval(
        "SELECT id FROM gateway.api_key WHERE account_id = $1", UUID(account_id)
    )
    began = time.monotonic()

    assert await revoke_key(connection, key_id=key_id, now=datetime.now(UTC))

    assert time.monotonic() - began > CACHE_SECONDS
    await connection.close()


async def test_nothing_is_granted_to_an_account_that_does_not_exist(database: Database) -> None:
    stranger = str(uuid4())
    for arguments in (
        ("grant", stranger, "5"),
        ("key", "create", stranger),
        ("account", "limit", stranger, "5"),
    ):
        done = await operate(database, *arguments)
        assert (done.returncode, done.stderr) == (1, f"There is no account {stranger}.\n")


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    done = await operate(database, "migrate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_database_that_does_not_answer_is_one_sentence(database: Database) -> None:
    away = Database(name="x", port=1, admin_dsn="postgresql://nobody@127.0.0.1:1/x", passwords={})
    for arguments in (("migrate",), ("account", "create", "Eve")):
        done = await operate(away, *arguments)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "PostgreSQL does not answer" in done.stderr


async def test_no_event_is_published_again_that_consumers_may_have_forgotten(
    fresh_database: Database,
) -> None:
    week = await operate(fresh_database, "streams", "rebuild", "--days", "7")
    more = await operate(fresh_database, "streams", "rebuild", "--days", "8")

    assert (week.returncode, week.stdout) == (0, "0 events are published again\n")
    assert (more.returncode, more.stdout) == (2, "")
    assert "Must be <= 7" in more.stderr
