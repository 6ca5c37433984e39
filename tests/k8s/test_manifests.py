"""What `kubectl kustomize` renders is valid, and its parts refer to each other correctly.

No cluster is asked: the schemas say whether a document is well formed, the checks here say whether the
documents fit together, which the schemas cannot see.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from maskfer.faces import detect

_K8S = Path(__file__).resolve().parents[2] / "k8s"
_OVERLAYS = sorted(folder.name for folder in (_K8S / "overlays").iterdir())
_MADE_BY_THE_TEAM = {"maskfer-registry-db", "maskfer-scoring-tokens", "maskfer-statistics-db"}
"""Secrets that hold what no repository may hold; docs/operations.md says how to make them."""

Document = dict[str, Any]


@pytest.fixture(scope="module", params=_OVERLAYS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(_K8S / "overlays" / request.param)],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(yaml.safe_load_all(rendered.stdout))


def test_every_document_keeps_strictly_to_the_schema_of_its_kind(documents: list[Document]) -> None:
    for document in documents:
        kubernetes_validate.validate(document, "1.32", strict=True)


def test_every_selector_finds_the_pods_it_is_meant_for(documents: list[Document]) -> None:
    pods = [_pod(workload)["metadata"]["labels"] for workload in _workloads(documents)]
    for workload in _workloads(documents):
        selector = workload["spec"]["selector"]["matchLabels"]
        assert selector.items() <= _pod(workload)["metadata"]["labels"].items(), workload["metadata"]["name"]
    services = [document["spec"]["selector"] for document in _of_kind(documents, "Service")]
    budgets = [
        document["spec"]["selector"]["matchLabels"] for document in _of_kind(documents, "PodDisruptionBudget")
    ]
    policies = [
        selector["matchLabels"] for selector in _policy_selectors(documents) if "matchLabels" in selector
    ]
    for selector in (*services, *budgets, *policies):
        assert any(selector.items() <= labels.items() for labels in pods), f"{selector} selects no pod"


def test_ports_that_are_named_exist(documents: list[Document]) -> None:
    for service in _of_kind(documents, "Service"):
        pods = [
            _pod(workload)
            for workload in _workloads(documents)
            if service["spec"]["selector"].items() <= _pod(workload)["metadata"]["labels"].items()
        ]
        for port in service["spec"]["ports"]:
            assert all(port["targetPort"] in _ports(pod) for pod in pods), service["metadata"]["name"]
    for workload in _workloads(documents):
        for container in _pod(workload)["spec"]["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                action = container.get(probe, {})
                for kind in ("httpGet", "tcpSocket"):
                    assert kind not in action or action[kind]["port"] in _ports(_pod(workload))


def test_a_network_policy_opens_only_ports_that_somebody_listens_on(documents: list[Document]) -> None:
    named = {port for workload in _workloads(documents) for port in _ports(_pod(workload))}
    for policy in _of_kind(documents, "NetworkPolicy"):
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        for port in (port["port"] for rule in rules for port in rule["ports"]):
            assert port in named or port in (53, 5432), policy["metadata"]["name"]


def test_config_maps_secrets_and_claims_that_are_named_exist(documents: list[Document]) -> None:
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for workload in _workloads(documents):
        for kind, name in _references(_pod(workload)["spec"]):
            assert (kind, name) in there or (kind == "Secret" and name in _MADE_BY_THE_TEAM), (kind, name)


def test_the_settings_are_addresses_of_services_that_exist(documents: list[Document]) -> None:
    from maskfer.config import Settings

    (settings,) = (
        document
        for document in _of_kind(documents, "ConfigMap")
        if document["metadata"]["name"] == "maskfer-settings"
    )
    ports = {
        (service["metadata"]["name"], port["port"])
        for service in _of_kind(documents, "Service")
        for port in service["spec"]["ports"]
    }
    for variable, address in settings["data"].items():
        assert variable.removeprefix("MASKFER_").lower() in Settings.model_fields
        host, _, port = address.split("//")[1].split("/")[0].partition(":")
        name, namespace = host.split(".")[:2]
        assert namespace == settings["metadata"]["namespace"]
        assert (name, int(port)) in ports


def test_images_have_a_version_and_every_container_has_limits(documents: list[Document]) -> None:
    for container in _containers(documents):
        _, _, tag = container["image"].rpartition(":")
        assert tag != "latest"
        assert tag[0].isdigit(), container["image"]
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_what_the_service_admits_at_a_time_fits_its_memory(documents: list[Document]) -> None:
    [container] = [container for container in _containers(documents) if container["name"] == "scoring"]
    limits = {variable["name"]: variable.get("value") for variable in container["env"]}
    bodies = int(limits["MASKFER_MAX_REQUESTS"]) * int(limits["MASKFER_MAX_BODY_BYTES"])
    # A node's cores, each with a picture decoded and one with a border.
    pictures = 16 * 3 * (int(limits["MASKFER_MAX_PIXELS"]) + detect._MAX_BORDERED_PX)
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert bodies + pictures + 512 * 2**20 < memory


def test_nothing_runs_as_root_or_can_write_to_its_image(documents: list[Document]) -> None:
    for workload in _workloads(documents):
        pod = _pod(workload)["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        # A service's NAME_PORT variables could be taken for settings.
        assert pod["enableServiceLinks"] is False
    for container in _containers(documents):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_scoring_service_is_asked_whether_it_is_ready(documents: list[Document]) -> None:
    (scoring,) = (workload for workload in _workloads(documents) if workload["metadata"]["name"] == "scoring")
    (container,) = _pod(scoring)["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert scoring["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_several_scoring_pods_do_not_start_without_one_database_for_their_statistics(
    documents: list[Document],
) -> None:
    (scoring,) = (workload for workload in _workloads(documents) if workload["metadata"]["name"] == "scoring")
    (container,) = _pod(scoring)["spec"]["containers"]
    sources = {variable["name"]: variable.get("valueFrom", {}) for variable in container["env"]}
    secret = sources["MASKFER_STATISTICS_URL"]["secretKeyRef"]
    assert secret.get("optional", False) is (scoring["spec"]["replicas"] == 1)


def test_the_scoring_service_reaches_the_database_of_its_statistics(documents: list[Document]) -> None:
    (policy,) = (
        policy
        for policy in _of_kind(documents, "NetworkPolicy")
        if policy["spec"]["podSelector"].get("matchLabels") == {"app.kubernetes.io/name": "scoring"}
    )
    # Wherever it lies: the cluster's own, or outside of it.
    assert {"ports": [{"protocol": "TCP", "port": 5432}]} in policy["spec"]["egress"]


def _of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def _workloads(documents: list[Document]) -> list[Document]:
    return [*_of_kind(documents, "Deployment"), *_of_kind(documents, "StatefulSet")]


def _pod(workload: Document) -> Document:
    pod: Document = workload["spec"]["template"]
    return pod


def _containers(documents: list[Document]) -> list[Document]:
    return [
        container for workload in _workloads(documents) for container in _pod(workload)["spec"]["containers"]
    ]


def _ports(pod: Document) -> set[str]:
    return {port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}


def _policy_selectors(documents: list[Document]) -> Iterator[Document]:
    for policy in _of_kind(documents, "NetworkPolicy"):
        yield policy["spec"]["podSelector"]
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]:
            for peer in [*rule.get("from", []), *rule.get("to", [])]:
                if "podSelector" in peer:
                    yield peer["podSelector"]


def _references(pod: Document) -> Iterator[tuple[str, str]]:
    for container in pod["containers"]:
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"]
        for variable in container.get("env", []):
            if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield "Secret", secret["name"]
    for volume in pod.get("volumes", []):
        if claim := volume.get("persistentVolumeClaim"):
            yield "PersistentVolumeClaim", claim["claimName"]
