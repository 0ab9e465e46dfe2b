"""Pods that stand beside a slice pod in a guarded namespace and reach for the host."""

import json
from typing import Any, Final

from tests.e2e.cluster import Cluster, slice_pod

Json = dict[str, Any]
PRIVILEGED_LABEL: Final = {"pod-security.kubernetes.io/enforce": "privileged"}
BASELINE_LABEL: Final = {"pod-security.kubernetes.io/enforce": "baseline"}
POD_SECURITY_LABEL: Final = {"mpslice.io/pod-security": "baseline-except-host-ipc"}
VIOLATIONS: Final = ("hostPath", "privileged", "hostPID")
"""What each of `refusals` is about."""


def refusals(namespace: Cluster) -> list[str]:
    """What kubectl says of slice pods that want the host's root, its devices and its processes."""
    volume = {"name": "host", "hostPath": {"path": "/"}}
    mounts = slice_pod("sibling", 10, volumes=[volume])
    privileged = slice_pod("sibling", 10)
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    return [_said(namespace, pod) for pod in (mounts, privileged, slice_pod("s", 10, hostPID=True))]


def _said(namespace: Cluster, pod: Json) -> str:
    """ "" when it would be made."""
    options = ("create", "--dry-run=server", "--filename=-")
    said = namespace.kubectl(*options, input=json.dumps(pod), check=False)
    return said if "created" not in said else ""
