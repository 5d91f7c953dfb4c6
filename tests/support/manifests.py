"""The Kubernetes manifests as `kubectl` would apply them, and what their schemas say of them."""

import json
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from kubeflow_trainer_api.models.trainer_v1alpha1_training_runtime import (
    TrainerV1alpha1TrainingRuntime,
)
from referencing import Registry
from referencing.jsonschema import DRAFT202012

K8S = Path(__file__).parents[2] / "deploy/k8s"
OVERLAYS = ("overlays/small", "overlays/large")
CLUSTER = "cluster"
VERSIONS = ("1.34.0", "1.37.0")
"""The oldest Kubernetes that the manifests are for, and the newest with published schemas."""

PLAIN = {"type": ["string", "integer", "number"]}
WRAPPED = ("ResourceQuantity", "IntOrString")

Manifest = dict[str, Any]


@cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """What kustomize makes of a folder: an overlay, or what belongs to the whole cluster."""
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    done = subprocess.run(
        [kubectl, "kustomize", K8S / folder],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    return tuple(yaml.load_all(done.stdout, yaml.CSafeLoader))


def of_kind(overlay: str, *kinds: str) -> dict[str, Manifest]:
    """By name; names are unique among the kinds that are asked for together."""
    found = [one for one in rendered(overlay) if one["kind"] in kinds]
    by_name = {one["metadata"]["name"]: one for one in found}
    assert len(by_name) == len(found)
    return by_name


def pod_of(workload: Manifest) -> Manifest:
    """The pod's template in a Deployment, a StatefulSet or a Job."""
    template: Manifest = workload["spec"]["template"]
    return template


@cache
def _registry(version: str) -> Registry[Any]:
    folder = files("kubernetes_validate") / f"kubernetes-json-schema/v{version}-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text())
    resource = DRAFT202012.create_resource(definitions)
    return Registry().with_resource("_definitions.json", resource).crawl()


@cache
def _custom() -> dict[str, Any]:
    written = yaml.safe_load(Path(__file__).with_name("custom_resources.yaml").read_text())
    published = {}
    for model in (TrainerV1alpha1TrainJob, TrainerV1alpha1TrainingRuntime):
        schema = _closed(model.model_json_schema(by_alias=True))
        # As Python objects these are wrapped; in a manifest they are plain.
        schema["$defs"] |= {name: PLAIN for name in schema["$defs"] if name.endswith(WRAPPED)}
        kind = model.__name__.removeprefix("TrainerV1alpha1")
        published[f"trainer.kubeflow.org/v1alpha1/{kind}"] = schema
    return written["schemas"] | published


def _closed(schema: Any) -> Any:
    """With every field that it does not name refused, as the API server drops them unseen."""
    match schema:
        case dict():
            closed = {name: _closed(value) for name, value in schema.items()}
            if "properties" in schema and "additionalProperties" not in schema:
                closed["additionalProperties"] = False
            return closed
        case list():
            return [_closed(one) for one in schema]
    return schema


@cache
def schema_of(api_version: str, kind: str, kubernetes: str) -> Draft202012Validator:
    """Raises FileNotFoundError for a kind that has none."""
    custom = _custom().get(f"{api_version}/{kind}")
    if custom is not None:
        return Draft202012Validator(custom)
    group, _, version = api_version.rpartition("/")
    words = [kind.lower(), *([group.split(".")[0]] if group else []), version]
    folder = files("kubernetes_validate") / f"kubernetes-json-schema/v{kubernetes}-local-strict"
    schema = json.loads((folder / f"{'-'.join(words)}.json").read_text())
    return Draft202012Validator(schema, registry=_registry(kubernetes))


def mistakes(manifest: Manifest, version: str) -> Iterator[str]:
    """What Kubernetes of this version would say against a manifest."""
    schema = schema_of(manifest["apiVersion"], manifest["kind"], version)
    for found in schema.iter_errors(manifest):
        error = best_match([found])
        where = "/".join(str(step) for step in error.absolute_path)
        yield f"{manifest['kind']} {manifest['metadata']['name']} {where}: {error.message[:200]}"
