"""PostgreSQL in TLS: nobody says anything to a server that can't prove who it is, and whoever is
refused hears what to do. The addresses are those of deploy/k8s."""

from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.program import StackError
from deploy.operator import connected
from libs.eventlog.connection import NotTrusted, connect, create_pool
from tests.support.certificates import authority, issue
from tests.support.postgres_front import front_of
from tests.support.stack import Database

LIFE = timedelta(days=1)


async def refusal(url: str) -> str:
    """What a process hears, which a command of the operator's says as it is."""
    with pytest.raises(NotTrusted) as refused:
        await connect(url)
    with pytest.raises(StackError) as told:
        async with connected(url):
            pass
    assert str(told.value) == str(refused.value)
    return str(told.value)


async def test_whoever_verifies_is_served_in_tls(database: Database, tmp_path: Path) -> None:
    place = issue(tmp_path, authority("postgres"))
    async with (
        front_of(database, place) as front,
        create_pool(front.url("relay", place / "ca.crt"), size=1) as pool,
    ):
        assert await pool.fetchval("SELECT current_user") == "relay"
        assert front.versions == ["TLSv1.3"]


@pytest.mark.parametrize(
    ("case", "advised"),
    [
        ("another CA", "give the file of the CA that signs it"),
        ("another name", "say one of them in the address"),
        ("an address for a name", "say one of them in the address"),
        ("expired", "has expired"),
        ("no TLS", "turn TLS on there"),
    ],
)
async def test_a_server_that_can_not_prove_who_it_is_is_told_nothing(
    database: Database, tmp_path: Path, case: str, advised: str
) -> None:
    ours = authority("postgres")
    place = issue(
        tmp_path,
        authority("postgres") if case == "another CA" else ours,
        ["postgres-rw"] if case == "another name" else ["localhost"],
        ends_in=timedelta(seconds=-1) if case == "expired" else LIFE,
        trusted=ours,
    )
    host = "127.0.0.1" if case == "an address for a name" else "localhost"
    async with front_of(database, place, refuses=case == "no TLS") as front:
        said = await refusal(front.url("relay", place / "ca.crt", host))
        assert said.startswith(f"PostgreSQL at {host}: ")
        assert advised in said
        assert database.passwords["relay"] not in said
        assert front.versions == [], "not a word reached PostgreSQL"


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_that_can_not_be_read_is_told_of(
    database: Database, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    async with front_of(database, issue(tmp_path / "server", authority("postgres"))) as front:
        assert "sslrootcert names can't be read" in await refusal(front.url("relay", file))


async def test_a_pool_follows_the_ca_as_it_is_replaced(database: Database, tmp_path: Path) -> None:
    """CloudNativePG's Secret is a file that changes while the process runs."""
    place, ca = tmp_path / "server", tmp_path / "mounted.crt"
    former, following = authority("postgres"), authority("postgres")
    issue(place, former)
    ca.write_bytes(former.pem)
    async with (
        front_of(database, place) as front,
        create_pool(front.url("relay", ca), size=3) as pool,
        pool.acquire() as opened,
    ):
        issue(place, authority("postgres", key=former.key))
        async with pool.acquire() as second:
            assert await second.fetchval("SELECT 1") == 1, "by the CA as it was before its renewal"
            issue(place, following)
            with pytest.raises(NotTrusted):
                await pool.fetchval("SELECT 1")
            ca.write_bytes(following.pem)
            assert await pool.fetchval("SELECT 1") == 1, "over a third connection"
        assert await opened.fetchval("SELECT 1") == 1, "what is open stays"
        assert len(front.versions) == 3
