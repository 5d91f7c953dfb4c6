"""What watches the platform, on Docker or Kubernetes: collector, Prometheus, Tempo, Grafana."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml

from libs.observability.observation import Observation
from libs.settings import decode_settings
from tests.support.deployment import SETTINGS
from tests.support.manifests import K8S, OVERLAYS, VERSIONS, Manifest, mistakes, pod_of, rendered

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "observability"
COMPONENT = K8S / "components/observability"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.observability.yaml").read_text())
BASE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVERS = COMPOSE["services"].keys() - SETTINGS.keys()


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def test_a_pipeline_of_the_collector_is_made_of_parts_that_are_there_and_uses_each() -> None:
    collector = read("collector.yaml")
    used: dict[str, set[str]] = {"receivers": set(), "processors": set(), "exporters": set()}
    for pipeline in collector["service"]["pipelines"].values():
        for kind, parts in pipeline.items():
            used[kind] |= set(parts)
        assert pipeline["processors"][0] == "memory_limiter"
        assert pipeline["processors"][-1] == "batch"
    assert used == {kind: set(collector[kind]) for kind in used}
    assert set(collector["service"]["extensions"]) == set(collector["extensions"])


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_each_server_is_asked_where_it_listens() -> None:
    collector, prometheus, tempo = (
        read(f"{name}.yaml") for name in ("collector", "prometheus", "tempo")
    )
    sent_to = urlsplit(COMPOSE["services"]["gateway"]["environment"]["TUNEYARD_OTLP_ENDPOINT"])
    otlp = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert (sent_to.hostname, sent_to.port) == ("collector", port_of(otlp))
    shown = collector["exporters"]["prometheus"]["endpoint"]
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"collector:{port_of(shown)}"]}]
    assert job["honor_labels"] is True
    traces = tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    assert collector["exporters"]["otlp/tempo"]["endpoint"] == f"tempo:{port_of(traces)}"
    sources = read("grafana/provisioning/datasources/tuneyard.yaml")["datasources"]
    assert {one["url"] for one in sources} == {
        "http://prometheus:9090",
        f"http://tempo:{tempo['server']['http_listen_port']}",
    }


def test_every_service_is_watched_over_a_network_that_leads_nowhere_else() -> None:
    for name in SETTINGS:
        part = COMPOSE["services"][name]
        observation = decode_settings(Observation, part["environment"])
        assert observation.metrics
        assert observation.traces
        assert part["networks"] == ["watching"]
    assert COMPOSE["networks"] == {"watching": {"internal": True}}


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_a_server_of_others_is_hardened_and_its_files_are_there(name: str) -> None:
    part = COMPOSE["services"][name]
    assert part["read_only"] is True
    assert part["cap_drop"] == ["ALL"]
    assert part["security_opt"] == ["no-new-privileges:true"]
    image, _, tag = part["image"].partition(":")
    assert image
    assert tag.strip("v")[0].isdigit(), "pinned"
    for volume in part["volumes"]:
        source, _, *options = volume.split(":")
        if source.startswith("."):
            assert (DEPLOY / source).exists()
            assert options == ["ro"]
        else:
            assert source in COMPOSE["volumes"]
    named = {volume.split(":")[1] for volume in part["volumes"]}
    for word in part.get("command", ()):
        for path in (word.rpartition("=")[2],):
            assert not path.startswith("/etc/") or path in named
    assert set(part["networks"]) - {"watching"} <= BASE["networks"].keys()


def test_only_grafana_can_be_reached_from_this_machine_alone_and_by_nobody_unnamed() -> None:
    ports = {name: part["ports"] for name, part in COMPOSE["services"].items() if "ports" in part}
    assert ports == {"grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"]}
    environment = COMPOSE["services"]["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")


def test_prometheus_reads_the_alerts_and_grafana_the_dashboards_that_are_mounted() -> None:
    services = COMPOSE["services"]
    assert read("prometheus.yaml")["rule_files"] == ["/etc/prometheus/alerts.yaml"]
    assert any("/etc/prometheus/alerts.yaml" in one for one in services["prometheus"]["volumes"])
    (provider,) = read("grafana/provisioning/dashboards/tuneyard.yaml")["providers"]
    assert any(f":{provider['options']['path']}:" in one for one in services["grafana"]["volumes"])


@pytest.fixture(scope="module")
def watched_overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched").resolve()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "tuneyard",
        "resources": [os.path.relpath(K8S / "overlays/large", folder)],
        "components": [os.path.relpath(COMPONENT, folder)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


@pytest.fixture(scope="module")
def watched(watched_overlay: Path) -> tuple[Manifest, ...]:
    return rendered(str(watched_overlay))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_overlay_with_the_component_is_valid(
    watched: tuple[Manifest, ...], version: str
) -> None:
    assert not [mistake for one in watched for mistake in mistakes(one, version)]
    assert {"PodMonitor", "PrometheusRule"} <= {one["kind"] for one in watched}


def test_every_pod_of_ours_is_scraped_where_it_listens(watched: tuple[Manifest, ...]) -> None:
    (monitor,) = (one for one in watched if one["kind"] == "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    kinds = ("Deployment", "StatefulSet")
    pods = {one["metadata"]["name"]: pod_of(one) for one in watched if one["kind"] in kinds}
    for name in SETTINGS:
        pod = pods[name]
        labels = pod["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        (container,) = pod["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        observation = decode_settings(Observation, plain)
        assert observation.metrics_listen == f"0.0.0.0:{ports[endpoint['port']]}", name


def test_only_the_watchers_namespace_is_let_in_and_reached(watched: tuple[Manifest, ...]) -> None:
    policy = next(
        one["spec"]
        for one in watched
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "observability"
    )
    monitoring = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    }
    (into,), (out,) = policy["ingress"], policy["egress"]
    assert (into["from"], into["ports"]) == ([monitoring], [{"port": "metrics"}])
    assert (out["to"], out["ports"]) == ([monitoring], [{"port": 4318}])
    (selector,) = policy["podSelector"]["matchExpressions"]
    assert set(selector["values"]) == SETTINGS.keys()


def test_who_is_not_watched_has_no_listener() -> None:
    for overlay in OVERLAYS:
        assert "TUNEYARD_METRICS_LISTEN" not in msgspec.json.encode(rendered(overlay)).decode()
