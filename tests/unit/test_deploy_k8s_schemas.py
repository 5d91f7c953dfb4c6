"""Every manifest is one that Kubernetes, and the operators in it, would take."""

from pathlib import Path

import pytest
import yaml

from tests.support.manifests import CLUSTER, K8S, OVERLAYS, VERSIONS, mistakes, rendered


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", [*OVERLAYS, CLUSTER])
def test_an_overlay_is_valid(folder: str, version: str) -> None:
    manifests = rendered(folder)
    assert manifests
    assert not [mistake for one in manifests for mistake in mistakes(one, version)]


@pytest.mark.parametrize(
    "path", sorted((K8S / "examples").glob("*.yaml")), ids=lambda one: one.name
)
def test_an_example_is_valid(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        assert not list(mistakes(manifest, VERSIONS[-1]))


def test_no_resource_is_said_twice() -> None:
    for folder in OVERLAYS:
        names = [(one["kind"], one["metadata"]["name"]) for one in rendered(folder)]
        assert len(set(names)) == len(names)


def test_no_file_of_manifests_is_forgotten() -> None:
    """A file that no kustomization names would be checked by nobody and applied by nobody."""
    kustomizations = list(K8S.rglob("kustomization.yaml"))
    named = {
        (path.parent / word.strip("[],")).resolve()
        for path in kustomizations
        for word in path.read_text().split()
    }
    unnamed = [
        path.relative_to(K8S).as_posix()
        for path in K8S.rglob("*")
        if path.is_file() and path not in kustomizations and path.resolve() not in named
    ]
    assert sorted(unnamed) == ["examples/restore.yaml", "examples/trainjob.yaml"]
