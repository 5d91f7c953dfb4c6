"""Each process of the local stack listens on a port of its own, if an operator wants to look."""

from pathlib import Path

import pytest

from deploy.local.observation import METRICS_LISTEN, environment, wanted
from deploy.local.program import StackError
from deploy.local.services import Stack, programs
from deploy.local.state import load_ports, load_secrets

LISTEN = {METRICS_LISTEN: "127.0.0.1:9464"}


def test_nothing_is_passed_on_that_nobody_wants() -> None:
    assert wanted({"PATH": "/bin", METRICS_LISTEN: ""}) == {}
    assert environment({}, 3) == {}


def test_the_processes_listen_one_behind_the_other() -> None:
    observation = wanted(LISTEN | {"TUNEYARD_OTLP_ENDPOINT": "http://a:4318"})
    listening = [environment(observation, place)[METRICS_LISTEN] for place in range(3)]
    assert listening == ["127.0.0.1:9464", "127.0.0.1:9465", "127.0.0.1:9466"]
    assert environment(observation, 2)["TUNEYARD_OTLP_ENDPOINT"] == "http://a:4318"


def test_replicas_and_trainers_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    stack = Stack(
        folder=tmp_path,
        secrets=load_secrets(tmp_path),
        ports=load_ports(tmp_path),
        gateway_port=8080,
        further_gateways=(8081, 8082),
        trainers=2,
        observation=LISTEN,
    )
    listening = {
        program.name: program.env[METRICS_LISTEN]
        for program in programs(stack)
        if METRICS_LISTEN in program.env
    }
    assert len(listening) == 3 * 7 + 2
    assert len(set(listening.values())) == len(listening)


@pytest.mark.parametrize("listen", ["9464", ":9464", "127.0.0.1:http", "127.0.0.1:65535", "a:0"])
def test_what_is_no_row_of_addresses_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(StackError, match=r"such as 127\.0\.0\.1:9464"):
        environment({METRICS_LISTEN: listen}, 1 if listen.endswith("65535") else 0)
