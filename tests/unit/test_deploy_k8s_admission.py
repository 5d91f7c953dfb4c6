"""What a trainer's account may create on Kubernetes: what the launcher makes, and no more."""

import json
from pathlib import Path
from typing import Any

import cel
import pytest

from services.trainer.launch_trainjob import QUEUE, Where, trainjob
from tests.support.manifests import CLUSTER, Manifest, of_kind
from tests.support.recorded_kubernetes import STORIES, merged
from tests.support.training import grow_spec

FOLDER = Path("/scratch/trainer-0/attempts/job/1")
TRAINER = "system:serviceaccount:tuneyard:trainer"
WHERE = Where(
    trainer_id="trainer-0",
    pod_uid="5b0d7a7e-6d0c-4a56-9a54-1f0a4f3b2c10",
    queue="training",
    runtime="training",
    nodes=2,
    processes=4,
)
SECRET = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "gateway", "key": "key-pepper"}}}


def made() -> dict[str, Any]:
    """As the API server shows it to a policy: with what Kubeflow and Kueue add."""
    spec = grow_spec(FOLDER, FOLDER, FOLDER)
    wanted = trainjob(spec, FOLDER / "spec.json", FOLDER / "output.txt", WHERE)
    stored = merged(json.loads((STORIES / "trainjob.json").read_text()), wanted)
    assert isinstance(stored, dict)
    return stored


def policy() -> Manifest:
    found = of_kind(CLUSTER, "ValidatingAdmissionPolicy")["tuneyard-trainer"]
    spec: Manifest = found["spec"]
    return spec


def refusals(manifest: Manifest) -> list[str]:
    return [
        one["message"]
        for one in policy()["validations"]
        if cel.evaluate(one["expression"], {"object": manifest}) is not True
    ]


def test_what_a_trainer_makes_is_let_in() -> None:
    assert "suspend" in made()["spec"], "Kueue's"
    assert refusals(made()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"trainer": {"env": [SECRET]}}},
        {"spec": {"trainer": {"image": "somebody/else"}}},
        {"spec": {"trainer": {"command": ["sh", "-c", "env"]}}},
        {"spec": {"trainer": {"args": [str(FOLDER), "--module", "os", "--once", "x"]}}},
        {"spec": {"trainer": {"args": ["/etc/x", "--output", "x", "--once", "x"]}}},
        {"spec": {"runtimeRef": {"name": "another"}}},
        {"spec": {"runtimeRef": {"kind": "ClusterTrainingRuntime"}}},
        {"spec": {"runtimePatches": [{"manager": "tuneyard.dev/trainer"}]}},
        {"spec": {"podTemplateOverrides": [{"spec": {"volumes": [{"name": "secrets"}]}}]}},
        {"spec": {"initializer": {"model": {"env": [SECRET]}}}},
        {"metadata": {"labels": {QUEUE: "another"}}},
    ],
    ids=lambda change: str(change)[:60],
)
def test_whatever_else_it_may_ask_for_is_refused(change: Manifest) -> None:
    assert len(refusals(merged(made(), change))) == 1


def test_the_policy_is_about_trainers_and_in_force() -> None:
    (condition,) = policy()["matchConditions"]
    for user, is_meant in ((TRAINER, True), ("system:serviceaccount:kueue-system:kueue", False)):
        request = {"request": {"userInfo": {"username": user}}}
        assert cel.evaluate(condition["expression"], request) is is_meant
    (rule,) = policy()["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["trainjobs"], ["CREATE", "UPDATE"])
    assert policy()["failurePolicy"] == "Fail"
    (binding,) = of_kind(CLUSTER, "ValidatingAdmissionPolicyBinding").values()
    assert binding["spec"] == {"policyName": "tuneyard-trainer", "validationActions": ["Deny"]}
