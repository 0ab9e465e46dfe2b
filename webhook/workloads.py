"""Where a workload keeps its pod template; its pods are judged early, at `kubectl apply`."""

from collections.abc import Mapping
from typing import Any, Final

from webhook.pods import Pod, read_pod
from webhook.verdicts import EMPTY

_TEMPLATE: Final = ("spec", "template")

TEMPLATES: Final = {
    "Deployment": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


def read_template(workload: Mapping[str, Any], kind: str) -> Pod:
    """The pod template of a workload of that kind; paths in messages start with its own.

    An empty pod for any other kind, and for a workload that another one owns: a Deployment's
    ReplicaSet would repeat to the controller what the user has been told.
    """
    steps = TEMPLATES.get(kind)
    if steps is None or _is_owned(workload):
        return read_pod(EMPTY)
    template = workload
    for step in steps:
        template = template.get(step, EMPTY)
    return read_pod(template, prefix=f"{'.'.join(steps)}.")


def _is_owned(workload: Mapping[str, Any]) -> bool:
    owners = workload.get("metadata", EMPTY).get("ownerReferences", ())
    return any(owner.get("controller") is True for owner in owners)
