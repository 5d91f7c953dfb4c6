"""What an operator's commands make for containers: secrets, and NATS's users."""

import stat
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import msgspec

from deploy.containers import (
    NATS_USERS,
    complete,
    compose_secrets,
    kubernetes_list,
    nats_users,
)
from deploy.health import healthy
from deploy.local import nats
from deploy.operator import role_passwords
from libs.eventlog.migrations import ROLES


def test_the_users_in_the_repository_are_those_of_the_permission_table() -> None:
    assert NATS_USERS.read_text() == nats_users(), "run `just nats-users`"


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "compose" / "secrets.env"
    assert set(complete(file)) == set(compose_secrets())
    first = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert complete(file) == []
    assert file.read_text() == first


def test_a_secret_that_is_newer_than_the_file_is_added_to_it(tmp_path: Path) -> None:
    file = tmp_path / "secrets.env"
    file.write_text("POSTGRES_PASSWORD=mine")
    made = complete(file)
    assert set(made) == set(compose_secrets()) - {"POSTGRES_PASSWORD"}
    lines = file.read_text().splitlines()
    assert lines[0] == "POSTGRES_PASSWORD=mine"
    assert [line.partition("=")[0] for line in lines[1:]] == made


def test_every_secret_is_another_one_and_fits_into_a_url_and_into_natss_configuration(
    tmp_path: Path,
) -> None:
    complete(tmp_path / "env")
    pairs = [line.partition("=") for line in (tmp_path / "env").read_text().splitlines()]
    values = [value for _, _, value in pairs]
    assert len(set(values)) == len(values)
    assert all(value.isalnum() and len(value) >= 20 for value in values)
    assert all(value[0].isalpha() for name, _, value in pairs if name.startswith("NATS_"))


def test_kubernetes_gets_a_secret_for_each_role_and_each_user() -> None:
    items = msgspec.json.decode(kubernetes_list())["items"]
    names = {item["metadata"]["name"] for item in items}
    assert names == {
        "gateway",
        "postgres-tuneyard-admin",
        *(f"postgres-{role}" for role in ROLES),
        *(f"nats-{user}" for user in (*nats.PERMISSIONS, "routes")),
    }
    passwords = [item["stringData"].get("password") for item in items]
    assert len(set(passwords)) == len(passwords)


class Gateway(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/healthz" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Its answers are looked at, not its log."""


def test_the_gateway_is_asked_on_its_own_port_whether_it_lives() -> None:
    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        Thread(target=server.handle_request).start()
        assert healthy({"TUNEYARD_LISTEN": f"0.0.0.0:{server.server_port}"})
        Thread(target=server.handle_request).start()
        assert not healthy({"TUNEYARD_PROBE_LISTEN": f"0.0.0.0:{server.server_port}"})
    assert not healthy({"TUNEYARD_LISTEN": f"0.0.0.0:{server.server_port}"})
    assert not healthy({})


def test_a_migration_sets_the_passwords_that_its_environment_names() -> None:
    environ = {"TUNEYARD_ROLE_PASSWORD_BILLING": "b", "TUNEYARD_ROLE_PASSWORD_NOBODY": "n"}
    assert role_passwords(environ) == {"billing": "b"}


def test_of_two_passwords_that_a_service_was_told_a_migration_sets_the_next_one() -> None:
    assert role_passwords({"TUNEYARD_ROLE_PASSWORD_RELAY": "now,next"}) == {"relay": "next"}
