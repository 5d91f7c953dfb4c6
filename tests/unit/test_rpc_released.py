"""Two versions side by side understand each other: what they ask, answer and report."""

from copy import deepcopy

import pytest

from tests.support.rpc_release import breaks, current, released, told
from tests.support.schema_diff import Json

NOW = current()
LEASE = "rpc.scheduler.lease"


def changed() -> Json:
    return deepcopy(NOW)


def struct(whole: Json, name: str) -> Json:
    found: Json = whole["components"]["schemas"][name]
    return found


def test_the_released_contract_is_what_the_code_says() -> None:
    assert released() == NOW, "release it: just rpc"


def test_an_older_process_and_a_newer_one_understand_each_other() -> None:
    found = breaks(released(), NOW)
    assert not found, told(found)


def test_a_new_field_with_a_default_breaks_nobody() -> None:
    after = changed()
    for name in ("LeaseRequest", "LeaseGranted", "Heartbeat", "Finished"):
        struct(after, name)["properties"]["hue"] = {"type": "string", "default": "red"}
    assert breaks(NOW, after) == []


@pytest.mark.parametrize("name", ["LeaseRequest", "LeaseGranted", "Finished"])
def test_a_new_field_that_must_be_there_breaks_those_who_do_not_write_it(name: str) -> None:
    after = changed()
    struct(after, name)["properties"]["hue"] = {"type": "string"}
    struct(after, name)["required"].append("hue")
    (found,) = {line.partition(": ")[2] for line in breaks(NOW, after)}
    assert found == "the field hue is new and required"


@pytest.mark.parametrize("name", ["LeaseRequest", "LeaseGranted", "Finished"])
def test_a_field_that_is_gone_breaks_those_who_need_it(name: str) -> None:
    after = changed()
    del struct(after, name)["properties"]["job_id" if name != "LeaseRequest" else "trainer_id"]
    struct(after, name)["required"].remove("job_id" if name != "LeaseRequest" else "trainer_id")
    found = breaks(NOW, after)
    assert found
    assert all(line.endswith("is new and required (by the released version)") for line in found)


def test_a_new_verdict_of_the_heartbeat_breaks_trainers_that_do_not_know_it() -> None:
    after = changed()
    struct(after, "HeartbeatAnswer")["properties"]["verdict"]["enum"].append("pause")
    assert breaks(NOW, after) == [
        "rpc.scheduler.heartbeat answer.verdict: the values ['pause'] are not taken any more"
        " (by the released version)"
    ]


def test_a_larger_number_breaks_those_who_take_a_smaller_one() -> None:
    after = changed()
    struct(after, "Heartbeat")["properties"]["epoch"]["maximum"] *= 2
    (found,) = breaks(NOW, after)
    assert found.startswith("rpc.scheduler.heartbeat.epoch: its maximum changed")


def test_a_question_that_nobody_answers_any_more_breaks_those_who_ask_it() -> None:
    after = changed()
    del after["questions"][LEASE]
    assert breaks(NOW, after) == [f"{LEASE}: nobody answers it any more"]
    assert breaks(after, NOW) == []
