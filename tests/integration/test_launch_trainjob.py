"""The life of a TrainJob, from the trainer's side of a recorded Kubernetes API."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from libs.contracts.training import TrainSpec
from services.trainer.group import BEGUN_BEFORE
from services.trainer.kubernetes import ApiRefused, TrainJobApi
from services.trainer.launch import Training
from services.trainer.launch_trainjob import TrainJobLauncher, Where, once_of, trainjob
from services.trainer.once import claim, was_to_begin_again
from tests.support.recorded_kubernetes import Recording, recorded
from tests.support.training import grow_spec

WHERE = Where(
    trainer_id="trainer-0",
    pod_uid="5b0d7a7e-6d0c-4a56-9a54-1f0a4f3b2c10",
    queue="training",
    runtime="training",
    nodes=2,
    processes=4,
)
SOON = 0.001  # seconds between two questions


class Told:
    """A story that has been lived through."""

    def __init__(self, status: int, said: str, recording: Recording) -> None:
        self.status, self.said, self.recording = status, said, recording


async def live(
    story: str,
    folder: Path,
    through: Callable[[Training], Awaitable[int]],
    **does: Callable[[], None],
) -> Told:
    output = folder / "output.txt"
    async with (
        recorded(story, folder / "credentials", **does) as (url, recording),
        aiohttp.ClientSession() as http,
        asyncio.timeout(90),
    ):
        api = TrainJobApi(http, url, folder / "credentials")
        launcher = TrainJobLauncher(api, WHERE, poll_seconds=SOON)
        training = await launcher.launch(job(folder), output)
        status = await through(training)
    return Told(status, output.read_text() if output.exists() else "", recording)


def job(folder: Path) -> TrainSpec:
    spec = grow_spec(folder / "model", folder / "rows.jsonl", folder / "out")
    return replace(spec, threads=8)


def begin(folder: Path, *, times: int = 1) -> Callable[[], None]:
    """What the second of two pods does as it begins, as `trainjob` tells it to."""

    def claims() -> None:
        assert [claim(folder / "begun", "1") for _ in range(times)] == [True, False][:times]

    return claims


async def ended(training: Training) -> int:
    return await training.ended()


async def test_a_trainjob_waits_for_room_runs_and_is_removed_when_it_is_complete(
    tmp_path: Path,
) -> None:
    told = await live("finished", tmp_path, ended)
    assert told.status == 0
    created = told.recording.asked[0]
    spec = tmp_path / "spec.json"
    assert created.json == trainjob(job(tmp_path), spec, tmp_path / "output.txt", WHERE)
    assert created.headers["content-type"] == "application/json"
    assert msgspec.json.decode(spec.read_bytes(), type=TrainSpec).threads == 2, "of 8, by 4"
    (removed,) = (one for one in told.recording.asked if one.method == "DELETE")
    assert removed.json == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Foreground",
    }


async def test_one_that_fails_says_why(tmp_path: Path) -> None:
    told = await live("failed", tmp_path, ended)
    assert told.status == 1
    assert "failed: jobset failed due to reaching max number of restarts" in told.said


async def test_one_whose_node_was_drained_has_failed_for_no_fault_of_its_own(
    tmp_path: Path,
) -> None:
    told = await live("disrupted", tmp_path, ended)
    assert told.status == -signal.SIGTERM
    assert "failed: applying FailJobSet failure policy action" in told.said


async def test_one_that_has_to_make_room_is_given_up_before_it_begins_anew(tmp_path: Path) -> None:
    told = await live("preempted", tmp_path, ended)
    assert told.status == -signal.SIGTERM
    assert "had to make room for another" in told.said


async def test_one_that_ran_and_made_room_while_nobody_looked_is_given_up_too(
    tmp_path: Path,
) -> None:
    told = await live("preempted_unseen", tmp_path, ended, preempted=begin(tmp_path))
    assert told.status == -signal.SIGTERM
    assert "had to make room for another" in told.said


async def test_one_that_made_room_and_began_anew_while_nobody_looked_has_not_failed_by_itself(
    tmp_path: Path,
) -> None:
    told = await live("readmitted", tmp_path, ended, readmitted=begin(tmp_path, times=2))
    assert told.status == -signal.SIGTERM
    assert "failed: jobset failed due to" in told.said


async def test_one_that_fails_before_anybody_saw_it_run_has_failed(tmp_path: Path) -> None:
    told = await live("readmitted", tmp_path, ended, readmitted=begin(tmp_path))
    assert told.status == 1


async def test_one_that_begins_before_its_condition_says_so_goes_on(tmp_path: Path) -> None:
    told = await live("said_late", tmp_path, ended, begun=begin(tmp_path))
    assert told.status == 0


async def test_a_pod_that_comes_second_does_nothing_and_leaves_word(tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    told = trainjob(job(tmp_path), tmp_path / "spec.json", output, WHERE)["spec"]["trainer"]
    begin(tmp_path)()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *told["command"][1:], *told["args"]),
        env={**os.environ, "PET_NODE_RANK": "1"},
    )
    async with asyncio.timeout(90):
        assert await process.wait() == BEGUN_BEFORE
    assert was_to_begin_again(once_of(output))


async def test_one_that_somebody_has_deleted_has_ended(tmp_path: Path) -> None:
    told = await live("deleted", tmp_path, ended)
    assert told.status == -signal.SIGTERM
    assert "was deleted by somebody else" in told.said


@pytest.mark.parametrize("how", ["ask_to_stop", "kill"])
async def test_one_that_is_to_stop_has_ended_when_its_pods_are_gone(
    how: str, tmp_path: Path
) -> None:
    runs = asyncio.Event()

    async def stop(training: Training) -> int:
        await runs.wait()
        getattr(training, how)()
        return await training.ended()

    told = await live("stopped", tmp_path, stop, asked_to_stop=runs.set)
    assert told.status == -signal.SIGTERM


async def test_an_api_that_is_away_loses_nothing_and_makes_nothing_twice(tmp_path: Path) -> None:
    def rotate() -> None:
        (tmp_path / "credentials" / "token").write_text("second")

    told = await live("troubled", tmp_path, ended, token_replaced=rotate)
    assert told.status == 0
    names = {one.json["metadata"]["name"] for one in told.recording.asked if one.method == "POST"}
    assert len(names) == 1


async def test_what_the_api_refuses_is_said(tmp_path: Path) -> None:
    with pytest.raises(ApiRefused, match="cannot create resource"):
        await live("refused", tmp_path, ended)


async def test_a_run_that_the_api_lets_nobody_follow_is_removed_all_the_same(
    tmp_path: Path,
) -> None:
    async def refused(training: Training) -> int:
        with pytest.raises(ApiRefused, match="cannot get resource"):
            await training.ended()
        return 0

    told = await live("forbidden", tmp_path, refused)
    assert [one.method for one in told.recording.asked] == ["POST", "GET", "DELETE", "GET"]


async def test_a_trainer_that_comes_back_removes_what_it_had_begun(tmp_path: Path) -> None:
    async with (
        recorded("orphans", tmp_path / "credentials") as (url, recording),
        aiohttp.ClientSession() as http,
    ):
        api = TrainJobApi(http, url, tmp_path / "credentials")
        launcher = TrainJobLauncher(api, WHERE, poll_seconds=SOON)
        await launcher.ready()
        await launcher.ready()  # asks for nothing more
        assert recording.is_over
