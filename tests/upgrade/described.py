"""Print every program of a release as JSON: run by the release's own Python, on its own modules.

    python described.py FOLDER PORT TRAINERS

It uses nothing that the oldest release that is asked has not.
"""

import sys
from pathlib import Path

import msgspec

from deploy.local import nats, postgres, s3
from deploy.local.program import free_port
from deploy.local.services import Stack, programs
from deploy.local.state import Ports, load, load_secrets, save


def known_ports(folder: Path) -> Ports:
    """As they are: what listens there is running. What is new since gets its port now."""
    former = load(folder / "ports.json", Ports)
    assert former is not None
    names = Ports.__struct_fields__
    ports = Ports(**{name: getattr(former, name) or free_port() for name in names})
    save(folder / "ports.json", ports)
    return ports


def main(folder: Path, port: int, trainers: int) -> None:
    secrets, ports = load_secrets(folder), known_ports(folder)
    stack = Stack(folder=folder, secrets=secrets, ports=ports, gateway_port=port, trainers=trainers)
    keys = {"access_key": secrets.s3_access_key, "secret_key": secrets.s3_secret_key}
    servers = [
        postgres.program(folder / "postgres", port=ports.postgres),
        nats.program(folder / "nats", port=ports.nats, passwords=secrets.nats_users),
        s3.program(folder / "s3", port=ports.s3, **keys),
    ]
    sys.stdout.buffer.write(msgspec.json.encode([*servers, *programs(stack)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
