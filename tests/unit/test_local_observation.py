"""Each process of the local stack listens on a port of its own, if an operator wants to look."""

import pytest

from deploy.local.observation import METRICS_LISTEN, environment, wanted
from deploy.local.program import StackError

LISTEN = {METRICS_LISTEN: "127.0.0.1:9464"}


def test_nothing_is_passed_on_that_nobody_wants() -> None:
    assert wanted({"PATH": "/bin", METRICS_LISTEN: ""}) == {}
    assert environment({}, 3) == {}


def test_the_processes_listen_one_behind_the_other() -> None:
    observation = wanted(LISTEN | {"TUNEYARD_OTLP_ENDPOINT": "http://a:4318"})
    listening = [environment(observation, place)[METRICS_LISTEN] for place in range(3)]
    assert listening == ["127.0.0.1:9464", "127.0.0.1:9465", "127.0.0.1:9466"]
    assert environment(observation, 2)["TUNEYARD_OTLP_ENDPOINT"] == "http://a:4318"


@pytest.mark.parametrize("listen", ["9464", ":9464", "127.0.0.1:http", "127.0.0.1:65535", "a:0"])
def test_what_is_no_row_of_addresses_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(StackError, match=r"such as 127\.0\.0\.1:9464"):
        environment({METRICS_LISTEN: listen}, 1 if listen.endswith("65535") else 0)
