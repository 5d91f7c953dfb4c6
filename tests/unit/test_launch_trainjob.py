"""What a trainer creates on Kubernetes, and what is recorded of its API, is what it would take."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from libs.contracts.training import TrainSpec
from services.trainer.launch_trainjob import Where, trainjob
from tests.support.manifests import VERSIONS, Manifest, mistakes
from tests.support.recorded_kubernetes import STORIES, body_of
from tests.support.training import contract_spec, grow_spec

FOLDER = Path("/scratch/jobs/trainer-0/attempts/job/1")
WHERE = Where(
    trainer_id="trainer-0",
    pod_uid="5b0d7a7e-6d0c-4a56-9a54-1f0a4f3b2c10",
    queue="training",
    runtime="training",
    nodes=2,
    processes=4,
)
GROWN = grow_spec(FOLDER, FOLDER, FOLDER)


def made(spec: TrainSpec) -> dict[str, Any]:
    return trainjob(spec, FOLDER / "spec.json", FOLDER / "output.txt", WHERE)


@pytest.mark.parametrize("spec", [GROWN, contract_spec(FOLDER, FOLDER)], ids=lambda s: s.job_type)
def test_a_trainjob_is_one_that_kubeflow_takes(spec: TrainSpec) -> None:
    assert not list(mistakes(made(spec), VERSIONS[-1]))


def test_every_attempt_has_a_trainjob_of_its_own_whose_pods_names_fit() -> None:
    first, last = made(GROWN), made(replace(GROWN, epoch=10**6))
    assert first["metadata"]["name"] != last["metadata"]["name"]
    pod = f"{last['metadata']['name']}-node-0-999-abcde"
    assert len(pod) <= 63


def test_what_is_one_processs_work_gets_one() -> None:
    shared, alone = made(GROWN)["spec"], made(contract_spec(FOLDER, FOLDER))["spec"]
    assert (shared["trainer"]["numNodes"], shared["trainer"]["numProcPerNode"]) == (2, 4)
    assert (alone["trainer"]["numNodes"], alone["trainer"]["numProcPerNode"]) == (1, 1)


def recorded_objects(story: Path) -> list[Manifest]:
    told = json.loads(story.read_text())
    bodies = [body_of(one["answer"]) for one in told if one["answer"] != "reset"]
    return [one for body in bodies for one in body.get("items", [body]) if one["kind"] != "Status"]


@pytest.mark.parametrize(
    "story",
    [path for path in sorted(STORIES.glob("*.json")) if path.stem not in ("trainjob", "refused")],
    ids=lambda one: one.stem,
)
def test_a_recorded_trainjob_is_one_of_the_published_type(story: Path) -> None:
    objects = recorded_objects(story)
    assert objects
    assert not [mistake for one in objects for mistake in mistakes(one, VERSIONS[-1])]
