"""The network policies allow exactly the arrows of the design, section 1."""

import ipaddress
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.deployment import ARROWS
from tests.support.manifests import OVERLAYS, Manifest, of_kind, pod_of

PORTS = {"postgres": 5432, "nats": 4222, "objects": 443, "outside": 443}
ENDPOINTS = (1024, 65535)  # and the ports that customers may choose for theirs
OPERATOR = {"postgres", "outside"}  # outside: Stripe, whose books it compares
PRIVATE = ("10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1")
GENERAL = {"default-deny", "names"}  # for every pod
BESIDE = {"objects", "nats-monitor", "kubernetes-api"}  # about one thing, for some
API = (443, 6443)  # of Kubernetes, at an address that is nowhere the same
NOWHERE = "192.0.2.1/32"  # RFC 5737: for documentation; an operator says another

Arrow = tuple[str, str, Any]
"""From, to, and a port: its number or name, the first and the last of a range, or any."""


def labels(overlay: str) -> dict[str, dict[str, str]]:
    """Of each kind of pod, as it will be labelled."""
    workloads = of_kind(overlay, "Deployment", "StatefulSet", "Job")
    found = {name: pod_of(one)["metadata"]["labels"] for name, one in workloads.items()}
    found |= {name: {"cnpg.io/cluster": name} for name in of_kind(overlay, "Cluster")}
    for name, runtime in of_kind(overlay, "TrainingRuntime").items():
        job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
        found[name] = job["template"]["spec"]["template"]["metadata"]["labels"]
    return found


def selects(selector: Manifest, pod: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In"
        if pod.get(one["key"]) not in one["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= pod.items())


def ports(rule: Manifest) -> list[Any]:
    return [
        (port["port"], port["endPort"]) if "endPort" in port else port["port"]
        for port in rule.get("ports", ({"port": "any"},))
    ]


def allowed(overlay: str, direction: str, peers: str) -> Iterator[tuple[str, str, Any, str]]:
    """(selected pod, pod of the rule, port, policy); only rules about pods of this namespace."""
    pods = labels(overlay)
    for policy, one in of_kind(overlay, "NetworkPolicy").items():
        for rule in one["spec"].get(direction, ()):
            for peer in rule.get(peers, ()):
                if peer.keys() == {"podSelector"}:
                    for name, pod in pods.items():
                        for other, its in pods.items():
                            if selects(one["spec"]["podSelector"], pod) and selects(
                                peer["podSelector"], its
                            ):
                                yield from ((name, other, port, policy) for port in ports(rule))


def inner(overlay: str) -> set[Arrow]:
    """Who can reach whom inside: both ends must allow it."""
    out = {(a, b, port) for a, b, port, _ in allowed(overlay, "egress", "to")}
    into = {(b, a, port) for a, b, port, _ in allowed(overlay, "ingress", "from")}
    assert out == into, "an arrow that one end refuses"
    return out


def outer(overlay: str) -> set[Arrow]:
    """Who can reach addresses outside of the cluster."""
    return {
        (name, "objects" if policy == "objects" else "outside", port)
        for policy, one in of_kind(overlay, "NetworkPolicy").items()
        for name, pod in labels(overlay).items()
        if selects(one["spec"]["podSelector"], pod)
        for rule in one["spec"].get("egress", ())
        for peer in rule.get("to", ())
        if "ipBlock" in peer and peer["ipBlock"]["cidr"] != NOWHERE
        for port in ports(rule)
    }


def anywhere(overlay: str) -> set[tuple[str, Any]]:
    """Who can reach any address there is, and on which port."""
    return {
        (name, port)
        for one in of_kind(overlay, "NetworkPolicy").values()
        for name, pod in labels(overlay).items()
        if selects(one["spec"]["podSelector"], pod)
        for rule in one["spec"].get("egress", ())
        if not rule.get("to")
        for port in ports(rule)
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_who_needs_the_clusters_api_can_reach_it_and_so_any_address_there(
    overlay: str,
) -> None:
    assert anywhere(overlay) == {("postgres", port) for port in API}, "CloudNativePG's pods"


def test_trainers_that_make_trainjobs_reach_the_clusters_api_where_an_operator_says_it_is() -> None:
    for overlay in OVERLAYS:
        policy = of_kind(overlay, "NetworkPolicy").get("kubernetes-api")
        assert bool(policy) == bool(of_kind(overlay, "TrainingRuntime"))
        if policy:
            (rule,) = policy["spec"]["egress"]
            assert rule["to"] == [{"ipBlock": {"cidr": NOWHERE}}]
            assert tuple(ports(rule)) == API
            selected = {
                n for n, p in labels(overlay).items() if selects(policy["spec"]["podSelector"], p)
            }
            assert selected == {"trainer"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_exactly_the_arrows_of_the_design_are_allowed(overlay: str) -> None:
    drawn = {
        (name, to, PORTS[to])
        for name, arrows in (ARROWS | {"operator": OPERATOR}).items()
        for to in arrows
    }
    drawn |= {("webhooks", "outside", ENDPOINTS)}
    among_themselves = {("nats", "nats", 6222), ("postgres", "postgres", 5432)}
    among_themselves |= {("postgres", "postgres", 8000)}
    if of_kind(overlay, "TrainingRuntime"):
        among_themselves |= {("training", "training", "any")}
    assert inner(overlay) | outer(overlay) == drawn | among_themselves


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_comes_from_other_namespaces_comes_from_those_that_must(overlay: str) -> None:
    entries = {
        (str(peer["namespaceSelector"]["matchLabels"]), policy, port)
        for policy, one in of_kind(overlay, "NetworkPolicy").items()
        for rule in one["spec"].get("ingress", ())
        for peer in rule["from"]
        if "namespaceSelector" in peer
        for port in ports(rule)
    }
    name = "kubernetes.io/metadata.name"
    wanted = {
        (str({"tuneyard.dev/ingress": "true"}), "gateway", "http"),
        (str({name: "cnpg-system"}), "postgres", 5432),
        (str({name: "cnpg-system"}), "postgres", 8000),
    }
    if of_kind(overlay, "ScaledObject"):
        wanted |= {(str({name: "keda"}), "nats-monitor", 8222)}
    assert entries == wanted


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_that_no_policy_names_can_say_and_hear_nothing(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    assert policies["default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert policies["names"]["spec"]["policyTypes"] == ["Egress"]
    assert ports(policies["names"]["spec"]["egress"][0]) == [53, 53]
    for name, one in policies.items():
        for direction in ("Ingress", "Egress"):
            if direction.lower() in one["spec"]:
                assert direction in one["spec"]["policyTypes"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_workload_has_a_policy_of_its_own_name(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    for name, pod in labels(overlay).items():
        own = [
            policy
            for policy, one in policies.items()
            if policy not in GENERAL | BESIDE and selects(one["spec"]["podSelector"], pod)
        ]
        assert own == [name]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_outside_is_no_address_of_a_private_network(overlay: str) -> None:
    blocks = [
        peer["ipBlock"]
        for one in of_kind(overlay, "NetworkPolicy").values()
        for rule in one["spec"].get("egress", ())
        for peer in rule.get("to", ())
        if "ipBlock" in peer and peer["ipBlock"]["cidr"] != NOWHERE
    ]
    assert blocks
    for block in blocks:
        network = ipaddress.ip_network(block["cidr"])
        inside = [ipaddress.ip_network(one) for one in block["except"]]
        assert all(one.subnet_of(network) for one in inside)  # type: ignore[arg-type]
        if network.version == 4:
            for address in map(ipaddress.ip_address, PRIVATE):
                assert any(address in one for one in inside), address
