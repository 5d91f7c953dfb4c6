"""What runs on Kubernetes: told all it must know, with nobody's rights, and looked after."""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from deploy.containers import kubernetes_secrets, nats_variable
from deploy.local import nats
from libs.bus.consume import durable_name
from libs.bus.streams import STREAMS
from libs.contracts.events import EVENT_CLASSES, type_of
from libs.jobstate.notice import NOTICE_TYPES
from libs.settings import decode_settings
from services.scheduler.reports import REPORTS
from tests.support.deployment import ARROWS, HUB_VARIABLES, SETTINGS, known_variables
from tests.support.manifests import K8S, OVERLAYS, Manifest, of_kind, pod_of, rendered

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LARGE = "overlays/large"
WORKLOADS = ("Deployment", "StatefulSet", "Job")
OURS = {"tuneyard/services": "services", "tuneyard/trainer": "trainer"}
HELPERS = {"POSTGRES_PASSWORD", "NATS_PASSWORD"}  # put into a URL, which is the setting
GIVEN_BY_THE_OPERATOR = {"object-store", "stripe", "hub"}
AMOUNTS = {"cpu": "2", "memory": "8589934592"}


def container_of(overlay: str, workload: str) -> Manifest:
    containers = pod_of(of_kind(overlay, *WORKLOADS)[workload])["spec"]["containers"]
    assert len(containers) == 1
    container: Manifest = containers[0]
    return container


def environment(overlay: str, workload: str) -> dict[str, str]:
    """What the process sees, with secrets by their address: ``<name.key>``."""
    configs = of_kind(overlay, "ConfigMap")
    seen: dict[str, str] = {}
    for variable in container_of(overlay, workload)["env"]:
        match variable.get("valueFrom"):
            case None:
                value = re.sub(r"\$\((\w+)\)", lambda m: seen[m.group(1)], variable["value"])
            case {"secretKeyRef": {"name": name, "key": key, **options}}:
                if options.get("optional"):
                    continue
                value = f"<{name}.{key}>"
            case {"configMapKeyRef": {"name": name, "key": key, **options}}:
                if options.get("optional") and key not in configs[name]["data"]:
                    continue
                value = configs[name]["data"][key]
            case {"fieldRef": {"fieldPath": "metadata.name"}}:
                value = f"{workload}-0"
            case {"fieldRef": {"fieldPath": "metadata.uid"}}:
                value = "5b0d7a7e-6d0c-4a56-9a54-1f0a4f3b2c10"
            case {"resourceFieldRef": {"resource": resource}}:
                value = AMOUNTS[resource.removeprefix("limits.")]
            case other:
                raise AssertionError(other)
        seen[variable["name"]] = value
    return seen


@pytest.mark.parametrize("service", SETTINGS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_service_is_told_all_it_must_know_and_nothing_it_does_not(
    overlay: str, service: str
) -> None:
    given = environment(overlay, service)
    pepper = {"TUNEYARD_KEY_PEPPER": "00"} if service == "gateway" else {}
    settings = msgspec.structs.asdict(decode_settings(SETTINGS[service], given | pepper))
    names = {variable["name"] for variable in container_of(overlay, service)["env"]}
    assert names - HELPERS <= known_variables(service)
    assert container_of(overlay, service)["args"] == ["service", service]
    nats_url = urlsplit(settings["nats_url"])
    assert (nats_url.username, nats_url.password) == (service, f"<nats-{service}.password>")
    if "database_url" in settings:
        database = urlsplit(settings["database_url"])
        assert (database.username, database.password) == (service, f"<postgres-{service}.password>")
    for value in given.values():
        if value.startswith("/app/"):
            assert (ROOT / value.removeprefix("/app/")).is_file()


def test_all_who_ask_the_model_hub_are_told_the_same_address_and_token_if_any() -> None:
    for overlay in OVERLAYS:
        told = {
            workload: [
                variable
                for variable in container_of(overlay, workload)["env"]
                if variable["name"] in HUB_VARIABLES
            ]
            for workload in of_kind(overlay, *WORKLOADS)
        }
        asking = {workload for workload, variables in told.items() if variables}
        assert asking == {"gateway", "trainer"}
        assert told["gateway"] == told["trainer"]
        assert {variable["name"] for variable in told["gateway"]} == HUB_VARIABLES
        for variable in told["gateway"]:
            (source,) = variable["valueFrom"].values()
            assert source["optional"] is True, variable


def test_a_copy_of_each_stream_is_on_every_server_of_nats() -> None:
    for overlay in OVERLAYS:
        servers = of_kind(overlay, "StatefulSet")["nats"]["spec"]["replicas"]
        assert environment(overlay, "relay")["TUNEYARD_STREAM_REPLICAS"] == str(servers)
        configuration = container_of(overlay, "nats")["command"][-1].rpartition("/")[2]
        assert configuration == ("cluster.conf" if servers > 1 else "nats.conf")
        routes = re.findall(r"@nats-(\d)\.nats-each:6222", environment(overlay, "nats")["ROUTES"])
        assert servers == 1 or routes == [str(number) for number in range(servers)]


def test_natss_server_gets_a_password_for_each_user_and_its_files_as_they_are() -> None:
    for overlay in OVERLAYS:
        given = environment(overlay, "nats")
        for user in nats.PERMISSIONS:
            assert given[nats_variable(user)] == f"<nats-{user}.password>"
        config = next(
            one for name, one in of_kind(overlay, "ConfigMap").items() if name.startswith("nats-")
        )
        in_tls = [K8S / "components/tls"] if of_kind(overlay, "Certificate") else []
        files = {
            file.name: file.read_text()
            for place in (K8S / "base/nats", *in_tls)
            for file in (*place.glob("*.conf"), *place.glob("*.sh"))
        }
        assert config["data"] == files


def secret_references(node: Any) -> Iterator[str]:
    match node:
        case {"secretKeyRef": {"name": name}} | {"passwordSecret": {"name": name}}:
            yield name
        case {"secret": {"name": name}} | {"secretName": name}:
            yield name
        case dict():
            for value in node.values():
                yield from secret_references(value)
        case list():
            for value in node:
                yield from secret_references(value)


def test_secrets_are_only_referred_to_and_the_command_makes_each_of_them() -> None:
    for overlay in OVERLAYS:
        assert not of_kind(overlay, "Secret")
        used = set(secret_references(list(rendered(overlay))))
        made = {one["metadata"]["name"] for one in kubernetes_secrets()}  # type: ignore[index]
        made |= {one["spec"]["secretName"] for one in of_kind(overlay, "Certificate").values()}
        made |= {f"{cluster}-ca" for cluster in of_kind(overlay, "Cluster")}
        assert used - GIVEN_BY_THE_OPERATOR == made
        for workload in of_kind(overlay, *WORKLOADS):
            for variable in container_of(overlay, workload)["env"]:
                if re.search("PASSWORD|SECRET|_KEY$|TOKEN|PEPPER", variable["name"]):
                    assert "secretKeyRef" in variable.get("valueFrom", {}), variable
                url = variable.get("value", "")
                assert re.fullmatch(r"([^@]*:\$\(\w+\)@[^@]*)|[^@]*", url.split(",")[0]), variable


def test_the_images_are_those_that_are_built_and_of_one_version() -> None:
    versions = set()
    for overlay in OVERLAYS:
        for name in of_kind(overlay, *WORKLOADS):
            image, _, version = container_of(overlay, name)["image"].partition(":")
            if name != "nats":
                assert (ROOT / f"deploy/images/{OURS[image]}.Dockerfile").is_file()
                assert (OURS[image] == "trainer") == (name == "trainer")
                versions.add(version)
    assert versions == {PROJECT["version"]}
    compose = (ROOT / "deploy/compose.yaml").read_text()
    assert f"image: {container_of(LARGE, 'nats')['image']}\n" in compose
    assert f"tuneyard/services:${{TUNEYARD_VERSION:-{versions.pop()}}}" in compose


def pods(overlay: str) -> Iterator[tuple[str, Manifest]]:
    for name, workload in of_kind(overlay, *WORKLOADS).items():
        yield name, pod_of(workload)["spec"]
    for name, runtime in of_kind(overlay, "TrainingRuntime").items():
        for job in runtime["spec"]["template"]["spec"]["replicatedJobs"]:
            yield name, job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_has_rights_that_it_does_not_need(overlay: str) -> None:
    namespace = of_kind(overlay, "Namespace")["tuneyard"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in pods(overlay):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] >= 10_000, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            context = container["securityContext"]
            assert context == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert container["resources"]["limits"]["memory"], name
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            claims = {"data"} if name == "nats" else set()
            assert mounted - claims <= {volume["name"] for volume in pod["volumes"]}, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whoever_serves_is_probed_and_may_not_be_evicted_altogether(overlay: str) -> None:
    budgets = of_kind(overlay, "PodDisruptionBudget")
    serving = [*SETTINGS, "nats"]
    assert budgets.keys() == set(serving)
    for name in serving:
        workload = of_kind(overlay, *WORKLOADS)[name]
        labels = pod_of(workload)["metadata"]["labels"]
        for selector in (budgets[name]["spec"]["selector"], workload["spec"]["selector"]):
            assert selector["matchLabels"].items() <= labels.items()
        assert budgets[name]["spec"]["maxUnavailable"] == 1
        container = container_of(overlay, name)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports, name
        if "probe" in ports:
            listen = environment(overlay, name)["TUNEYARD_PROBE_LISTEN"]
            assert listen == f"0.0.0.0:{ports['probe']}"
        if name == "gateway":
            assert environment(overlay, name)["TUNEYARD_LISTEN"] == f"0.0.0.0:{ports['http']}"


def main_of(service: str) -> str:
    return (ROOT / f"services/{service}/__main__.py").read_text()


@cache
def consumers() -> set[tuple[str, str]]:
    """The durable consumers of the services, each with its stream."""
    events = {
        ("EVENTS", durable_name(service, tag))
        for service in SETTINGS.keys() - {"relay"}
        for tag, event in EVENT_CLASSES.items()
        if re.search(rf"[(,] ?{event.__name__},", main_of(service))
    }
    notices = {("EVENTS", durable_name("webhooks", type_of(event))) for event in NOTICE_TYPES}
    telemetry = {("TELEMETRY", durable_name("telemetry", what)) for what in ("metrics", "logs")}
    return events | notices | telemetry | {("REPORTS", REPORTS)}


def test_keda_scales_what_is_stateless_by_consumers_that_exist() -> None:
    scaled = of_kind(LARGE, "ScaledObject")
    assert scaled.keys() == SETTINGS.keys() - {"relay", "trainer"}
    assert not of_kind("overlays/small", "ScaledObject")
    for name, one in scaled.items():
        deployment = of_kind(LARGE, "Deployment")[one["spec"]["scaleTargetRef"]["name"]]
        # A number there would be put back at every `kubectl apply`.
        assert "replicas" not in deployment["spec"], name
        assert 2 <= one["spec"]["minReplicaCount"] < one["spec"]["maxReplicaCount"]
        for trigger in one["spec"]["triggers"]:
            if trigger["type"] == "nats-jetstream":
                asked = trigger["metadata"]
                assert asked["consumer"].startswith(f"{name}-")
                assert (asked["stream"], asked["consumer"]) in consumers()
                assert asked["stream"] in {stream.name for stream in STREAMS}
                host, _, port = asked["natsServerMonitoringEndpoint"].partition(":")
                service = of_kind(LARGE, "Service")[host.split(".")[0]]
                assert host.split(".")[1] == service["metadata"]["namespace"]
                assert int(port) in [one["port"] for one in service["spec"]["ports"]]


def test_kueue_admits_what_asks_for_resources_that_its_queue_has() -> None:
    queue = next(one for one in rendered("cluster") if one["kind"] == "ClusterQueue")
    flavor = next(one for one in rendered("cluster") if one["kind"] == "ResourceFlavor")
    local = of_kind(LARGE, "LocalQueue")["training"]
    group = queue["spec"]["resourceGroups"][0]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    assert group["flavors"][0]["name"] == flavor["metadata"]["name"]
    (pod,) = (pod for name, pod in pods(LARGE) if name == "training")
    resources = pod["containers"][0]["resources"]
    wanted = resources["requests"].keys() | resources["limits"].keys()
    assert wanted == set(group["coveredResources"])
    settings = decode_settings(SETTINGS["trainer"], environment(LARGE, "trainer"))
    assert (settings.launcher, settings.queue) == ("trainjob", local["metadata"]["name"])


def place(pod: Manifest, volume: str) -> tuple[str, str]:
    """(the claim of a volume, where it is mounted)."""
    claims = {
        one["name"]: one["persistentVolumeClaim"] for one in pod["volumes"] if one["name"] == volume
    }
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume)
    return claims[volume]["claimName"], mount["mountPath"]


def test_a_trainjobs_pods_see_what_the_trainer_has_put_down_for_them_and_begin_once() -> None:
    all_pods = dict(pods(LARGE))
    settings = decode_settings(SETTINGS["trainer"], environment(LARGE, "trainer"))
    assert settings.runtime in of_kind(LARGE, "TrainingRuntime")
    assert place(all_pods["trainer"], "work") == place(all_pods["training"], "work")
    claim, path = place(all_pods["trainer"], "work")
    assert of_kind(LARGE, "PersistentVolumeClaim")[claim]["spec"]["accessModes"] == [
        "ReadWriteMany"
    ]
    assert settings.work_dir == f"{path}/trainer-0", "a folder of its own"
    assert settings.models_dir.startswith(f"{path}/")
    limits = all_pods["training"]["containers"][0]["resources"]["limits"]
    assert limits["memory"] == f"{settings.memory_bytes >> 30}Gi"
    assert limits["cpu"] == str(settings.threads)
    runtime = of_kind(LARGE, "TrainingRuntime")[settings.runtime]
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["template"]["spec"]["backoffLimit"] == 0
    assert all_pods["training"]["restartPolicy"] == "Never"


def test_a_trainjob_fails_by_a_rule_only_when_a_pod_of_it_was_disrupted() -> None:
    """By that a trainer knows it (`launch_trainjob.DISRUPTED`); nothing is begun again."""
    for runtime in of_kind(LARGE, "TrainingRuntime").values():
        jobset = runtime["spec"]["template"]["spec"]
        (rule,) = jobset["failurePolicy"]["rules"]
        assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
        assert "maxRestarts" not in jobset["failurePolicy"]
        for job in jobset["replicatedJobs"]:
            (of_pods,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
            assert of_pods == {
                "action": "FailJob",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            }


def test_only_a_trainer_has_a_token_of_the_clusters_and_only_for_trainjobs() -> None:
    for overlay in OVERLAYS:
        holders = {
            name
            for name, pod in pods(overlay)
            if "serviceAccountToken" in str(pod["volumes"]) or "serviceAccountName" in pod
        }
        assert holders == ({"trainer"} if of_kind(overlay, "TrainingRuntime") else set())
    (binding,) = of_kind(LARGE, "RoleBinding").values()
    assert binding["roleRef"]["name"] in of_kind(LARGE, "Role")
    (subject,) = binding["subjects"]
    assert subject["name"] == dict(pods(LARGE))["trainer"]["serviceAccountName"]
    assert subject["name"] in of_kind(LARGE, "ServiceAccount")
    (role,) = of_kind(LARGE, "Role").values()
    assert role["rules"] == [
        {
            "apiGroups": ["trainer.kubeflow.org"],
            "resources": ["trainjobs"],
            "verbs": ["create", "get", "list", "delete"],
        }
    ]


def test_everybody_the_design_draws_an_arrow_from_runs_somewhere() -> None:
    for overlay in OVERLAYS:
        assert of_kind(overlay, *WORKLOADS).keys() == ARROWS.keys() | {"nats", "operator"}
