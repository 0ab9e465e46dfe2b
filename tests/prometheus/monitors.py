"""What the Prometheus operator makes of a ServiceMonitor and a PodMonitor: scrape configurations.

The operator's own rules (`pkg/prometheus/promcfg.go`) for the fields that the chart uses; a field
that is not known here is an error, so that none is forgotten.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from hack.cluster.api import Api
from tests.prometheus.discovery import endpoints, plain, pods

Json = dict[str, Any]
_ENDPOINT: Final = {"port", "interval", "honorLabels", "relabelings"}


def scrape_configs(documents: Iterable[Json], api: Api) -> list[Json]:
    """One for each endpoint of each monitor, with the targets that there are now.

    The interval is the server's own.
    """
    found = []
    for document in documents:
        if document["kind"] == "ServiceMonitor":
            found += [_of_service(document, each, api) for each in _endpoints(document)]
        elif document["kind"] == "PodMonitor":
            found += [_of_pod(document, each, api) for each in _endpoints(document)]
    return found


def _endpoints(monitor: Json) -> list[Json]:
    spec = monitor["spec"]
    known = {"selector", "endpoints", "podMetricsEndpoints", "podTargetLabels"}
    assert set(spec) <= known, set(spec) - known
    found: list[Json] = spec.get("endpoints") or spec["podMetricsEndpoints"]
    for endpoint in found:
        assert set(endpoint) <= _ENDPOINT, set(endpoint) - _ENDPOINT
    return found


def _of_service(monitor: Json, endpoint: Json, api: Api) -> Json:
    rules = [
        *_selected(monitor, "service"),
        _keep("__meta_kubernetes_endpointslice_port_name", endpoint["port"]),
        _copy("__meta_kubernetes_service_name", "service"),
        _copy("__meta_kubernetes_service_name", "job"),
    ]
    return _config(monitor, endpoint, endpoints(api, monitor["metadata"]["namespace"]), rules)


def _of_pod(monitor: Json, endpoint: Json, api: Api) -> Json:
    metadata = monitor["metadata"]
    job = f"{metadata['namespace']}/{metadata['name']}"
    rules = [
        *_selected(monitor, "pod"),
        _keep("__meta_kubernetes_pod_container_port_name", endpoint["port"]),
        {"target_label": "job", "replacement": job},
    ]
    return _config(monitor, endpoint, pods(api, metadata["namespace"]), rules)


def _config(monitor: Json, endpoint: Json, targets: list[Json], rules: Iterable[Json]) -> Json:
    return {
        "job_name": f"{monitor['kind']}/{monitor['metadata']['name']}/{endpoint['port']}",
        "honor_labels": endpoint.get("honorLabels", False),
        "static_configs": targets,
        "relabel_configs": [
            *rules,
            _copy("__meta_kubernetes_namespace", "namespace"),
            _copy("__meta_kubernetes_pod_name", "pod"),
            _copy("__meta_kubernetes_pod_container_name", "container"),
            *(
                _copy(f"__meta_kubernetes_pod_label_{plain(label)}", plain(label))
                for label in monitor["spec"].get("podTargetLabels", ())
            ),
            *(
                {_snake(key): value for key, value in rule.items()}
                for rule in endpoint.get("relabelings", ())
            ),
        ],
    }


def _selected(monitor: Json, kind: str) -> list[Json]:
    labels = monitor["spec"]["selector"]["matchLabels"]
    return [
        _keep(f"__meta_kubernetes_{kind}_label_{plain(label)}", value)
        for label, value in labels.items()
    ]


def _keep(source: str, value: str) -> Json:
    return {"source_labels": [source], "regex": re.escape(value), "action": "keep"}


def _copy(source: str, target: str) -> Json:
    return {"source_labels": [source], "target_label": target}


def _snake(key: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", key)
