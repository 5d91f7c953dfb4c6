"""What crosses a cluster's network is encrypted, and whoever says a password knows to whom."""

import os
import re
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from tests.support.deployment import SETTINGS
from tests.support.manifests import (
    K8S,
    OVERLAYS,
    VERSIONS,
    Manifest,
    mistakes,
    of_kind,
    pod_of,
    rendered,
)
from tests.unit.test_deploy_k8s import LARGE, WORKLOADS, container_of, environment

SMALL = "overlays/small"
COMPONENT = K8S / "components/tls"
WITH_DATABASE = (*sorted(SETTINGS.keys() - {"trainer"}), "migrate", "operator")


@pytest.fixture(scope="module")
def small_in_tls(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small overlay with the component named, as an operator does it."""
    folder = tmp_path_factory.mktemp("small").resolve()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "tuneyard",
        "resources": [os.path.relpath(K8S / SMALL, folder)],
        "components": [os.path.relpath(COMPONENT, folder)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return str(folder)


@pytest.fixture(params=["large", "small"])
def in_tls(request: pytest.FixtureRequest, small_in_tls: str) -> str:
    return LARGE if request.param == "large" else small_in_tls


def mounted(overlay: str, workload: str, path: str) -> Manifest:
    """The volume that a file of a pod is on."""
    folder = path.rpartition("/")[0]
    (mount,) = (
        one for one in container_of(overlay, workload)["volumeMounts"] if one["mountPath"] == folder
    )
    assert mount["readOnly"]
    volumes = pod_of(of_kind(overlay, *WORKLOADS)[workload])["spec"]["volumes"]
    (volume,) = (one for one in volumes if one["name"] == mount["name"])
    found: Manifest = volume
    return found


def only_the_ca_of(secret: str) -> Manifest:
    return {"secretName": secret, "items": [{"key": "ca.crt", "path": "ca.crt"}]}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_small_overlay_with_the_component_is_valid(small_in_tls: str, version: str) -> None:
    manifests = rendered(small_in_tls)
    assert not [mistake for one in manifests for mistake in mistakes(one, version)]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("workload", WITH_DATABASE)
def test_everybody_asks_postgresql_who_it_is(overlay: str, workload: str) -> None:
    (cluster,) = of_kind(overlay, "Cluster")
    url = urlsplit(environment(overlay, workload)["TUNEYARD_DATABASE_URL"])
    asked = parse_qs(url.query, strict_parsing=True)
    assert url.hostname == f"{cluster}-rw", "a name that CloudNativePG's certificates have"
    assert asked["sslmode"] == ["verify-full"]
    volume = mounted(overlay, workload, asked["sslrootcert"][0])
    assert volume["secret"] == only_the_ca_of(f"{cluster}-ca")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_postgresql_lets_nobody_in_without_tls(overlay: str) -> None:
    (cluster,) = of_kind(overlay, "Cluster").values()
    assert cluster["spec"]["postgresql"]["pg_hba"][0] == "hostnossl all all all reject"


@pytest.mark.parametrize("service", SETTINGS)
def test_a_service_asks_nats_who_it_is_under_a_name_of_its_certificate(
    in_tls: str, service: str
) -> None:
    given = environment(in_tls, service)
    url = urlsplit(given["TUNEYARD_NATS_URL"])
    certificate = of_kind(in_tls, "Certificate")["nats-server"]["spec"]
    assert url.scheme == "tls"
    assert url.hostname in certificate["dnsNames"]
    volume = mounted(in_tls, service, given["TUNEYARD_NATS_CA"])
    assert volume["secret"] == only_the_ca_of(certificate["secretName"])


def test_without_the_component_nats_is_plain_and_no_certificate_is_needed() -> None:
    assert not of_kind(SMALL, "Certificate", "Issuer")
    for service in SETTINGS:
        given = environment(SMALL, service)
        assert given["TUNEYARD_NATS_URL"].startswith("nats://")
        assert "TUNEYARD_NATS_CA" not in given


def test_every_server_of_nats_has_the_name_by_which_the_others_call_it(in_tls: str) -> None:
    certificate = of_kind(in_tls, "Certificate")["nats-server"]["spec"]
    assert {"server auth", "client auth"} <= set(certificate["usages"]), "routes check both ends"
    called = re.findall(r"@([^:]+):6222", environment(in_tls, "nats")["ROUTES"])
    assert len(called) == 3
    assert set(called) <= set(certificate["dnsNames"])


def test_certificates_are_of_a_ca_that_keeps_its_key(in_tls: str) -> None:
    certificates, issuers = of_kind(in_tls, "Certificate"), of_kind(in_tls, "Issuer")
    signer = issuers[certificates["nats-server"]["spec"]["issuerRef"]["name"]]
    (ca,) = (
        one["spec"]
        for one in certificates.values()
        if one["spec"]["secretName"] == signer["spec"]["ca"]["secretName"]
    )
    assert ca["isCA"]
    assert ca["privateKey"]["rotationPolicy"] == "Never", "the default would be another CA"
    assert "selfSigned" in issuers[ca["issuerRef"]["name"]]["spec"]
    server = certificates["nats-server"]["spec"]
    hours = [int(server[field].removesuffix("h")) for field in ("renewBefore", "duration")]
    assert hours[0] < hours[1] < int(ca["duration"].removesuffix("h"))


def test_nats_reads_the_certificate_that_is_mounted_and_again_when_it_changes(in_tls: str) -> None:
    secret = of_kind(in_tls, "Certificate")["nats-server"]["spec"]["secretName"]
    named = {
        path
        for file in COMPONENT.glob("*.conf")
        for path in re.findall(r'_file: "([^"]+)"', file.read_text())
    }
    for path in named:
        assert mounted(in_tls, "nats", path)["secret"] == {"secretName": secret}
    pod = pod_of(of_kind(in_tls, "StatefulSet")["nats"])["spec"]
    (follower,) = pod["initContainers"]
    assert follower["restartPolicy"] == "Always", "beside the server, and not before it"
    assert pod["shareProcessNamespace"] is True, "it signals the server"
    server = container_of(in_tls, "nats")
    assert follower["image"] == server["image"]
    shared = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    for mount in follower["volumeMounts"]:
        assert mount["readOnly"]
        assert shared[mount["name"]] == mount["mountPath"]
    told = {variable["name"]: variable["value"] for variable in follower["env"]}
    assert named == {f"{told['CERTIFICATES']}/{file}" for file in ("ca.crt", "tls.crt", "tls.key")}
    configuration = (K8S / "base/nats/nats.conf").read_text()
    assert f'pid_file: "{told["PID_FILE"]}"' in configuration
    assert f'http: "0.0.0.0:{urlsplit(told["MONITOR"]).port}"' in configuration
    assert urlsplit(told["MONITOR"]).hostname == "127.0.0.1", "of the same pod"
    script = COMPONENT / follower["command"][-1].rpartition("/")[2]
    assert set(told) == set(re.findall(r"\$([A-Z_]+)", script.read_text()))
