"""``tuneyard-server up`` where it cannot start: one sentence, exit 1, nothing left running."""

import socket
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from deploy.local import nats
from deploy.local.program import free_port
from deploy.local.services import MODULES
from deploy.local.state import Ports, Secrets, load, load_ports, load_secrets, lock, open_folder
from libs.eventlog.migrations import ROLES


def up(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.server", "up", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not [word for word in words if word not in done.stderr], done.stderr


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        assert_refused(
            up("--data", str(tmp_path), "--port", port), f"Port {port} is taken", "--port"
        )
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_in_use_names_who_has_it(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from deploy.local.state import lock\n"
            "lock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()",
            str(folder),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        refused = up("--data", str(tmp_path), "--port", str(free_port()))
    finally:
        holder.communicate()
    assert_refused(refused, f"{folder} is in use by process {holder.pid}")

    lock(folder)  # free again once its holder is gone


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "stack"
    assert_refused(up("--data", str(folder)), str(folder), "cannot be written")


def test_a_broken_secrets_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{")
    assert_refused(up("--data", str(tmp_path), "--port", str(free_port())), "secrets.json")


def test_secrets_are_made_once_for_every_role_and_user_and_kept_private(tmp_path: Path) -> None:
    first = load_secrets(tmp_path)

    assert load_secrets(tmp_path) == first
    assert set(first.postgres_roles) == set(ROLES)
    assert set(first.nats_users) == set(nats.PERMISSIONS) >= set(MODULES)
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_a_role_that_is_newer_than_the_secrets_gets_a_password(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    first = load_secrets(tmp_path)
    without = msgspec.structs.replace(first, postgres_roles={"billing": "kept"})
    path.write_bytes(msgspec.json.encode(without))

    second = load_secrets(tmp_path)

    assert second.postgres_roles["billing"] == "kept"
    assert set(second.postgres_roles) == set(ROLES)
    assert load(path, Secrets) == second


def test_ports_are_kept_unless_somebody_took_them(tmp_path: Path) -> None:
    first = load_ports(tmp_path)
    assert load_ports(tmp_path) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first.nats))
        taken.listen()

        second = load_ports(tmp_path)

    assert second.nats != first.nats
    assert (second.postgres, second.s3) == (first.postgres, first.s3)
    assert load(tmp_path / "ports.json", Ports) == second


def test_a_server_that_is_newer_than_the_folder_gets_a_port(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text('{"postgres": 1, "nats": 2, "s3": 3}')

    assert load_ports(tmp_path).issuer > 0


@pytest.mark.parametrize(
    "command",
    [
        ("service", "nobody"),
        ("migrate",),
        ("grant", str(UUID(int=1)), "5"),
        ("token", "--subject", "alice"),
    ],
)
def test_a_command_without_what_it_needs_says_what_is_missing(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.server", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
