"""The targets of a namespace with the labels that Prometheus' own discovery gives them.

In place of `kubernetes_sd_configs`, which Debian leaves out of its Prometheus. The names are those
of Prometheus' documentation, for the roles `pod` and `endpointslice`.
"""

import re
from collections.abc import Iterator
from typing import Any

from hack.cluster.api import Api

Json = dict[str, Any]


def pods(api: Api, namespace: str) -> list[Json]:
    """A static configuration for each port of each container of a pod that has an address."""
    return [
        _target(pod["status"]["podIP"], port["containerPort"], _of_pod(pod, container, port))
        for pod in _list(api, namespace, "/api/v1", "pods")
        for container, port in _ports(pod)
        if pod["status"].get("podIP")
    ]


def endpoints(api: Api, namespace: str) -> list[Json]:
    """A static configuration for each port of each endpoint of each Service."""
    by_name = {pod["metadata"]["name"]: pod for pod in _list(api, namespace, "/api/v1", "pods")}
    services = {s["metadata"]["name"]: s for s in _list(api, namespace, "/api/v1", "services")}
    found = []
    for piece in _list(api, namespace, "/apis/discovery.k8s.io/v1", "endpointslices"):
        service = services[piece["metadata"]["labels"]["kubernetes.io/service-name"]]
        for endpoint in piece["endpoints"] or ():
            pod = by_name.get(endpoint.get("targetRef", {}).get("name"))
            if pod is None:
                continue  # it has ended meanwhile
            for offered in piece["ports"] or ():
                labels = {
                    "__meta_kubernetes_service_name": service["metadata"]["name"],
                    **_labels("service", service),
                    "__meta_kubernetes_endpointslice_port_name": offered["name"],
                }
                for container, port in _ports(pod):
                    if port["containerPort"] == offered["port"]:
                        labels |= _of_pod(pod, container, port)
                found += [_target(each, offered["port"], labels) for each in endpoint["addresses"]]
    return found


def plain(label: str) -> str:
    """A Kubernetes label's name as Prometheus writes it."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)


def _list(api: Api, namespace: str, group: str, kind: str) -> list[Json]:
    found: list[Json] = api.get(f"{group}/namespaces/{namespace}/{kind}")["items"]
    return found


def _ports(pod: Json) -> Iterator[tuple[Json, Json]]:
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", ()):
            yield container, port


def _of_pod(pod: Json, container: Json, port: Json) -> dict[str, str]:
    return {
        "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
        "__meta_kubernetes_pod_name": pod["metadata"]["name"],
        "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
        "__meta_kubernetes_pod_container_name": container["name"],
        "__meta_kubernetes_pod_container_port_name": port["name"],
        **_labels("pod", pod),
    }


def _labels(kind: str, found: Json) -> dict[str, str]:
    labels = found["metadata"].get("labels") or {}
    return {f"__meta_kubernetes_{kind}_label_{plain(key)}": value for key, value in labels.items()}


def _target(address: str, port: int, labels: dict[str, str]) -> Json:
    return {"targets": [f"{address}:{port}"], "labels": labels}
