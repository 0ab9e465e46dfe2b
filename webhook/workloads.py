"""Where a workload keeps its pod template; its pods are judged early, at `kubectl apply`."""

from typing import Any, Final

from webhook.pods import Pod, mapping, read_pod, sequence

_TEMPLATE: Final = ("spec", "template")

TEMPLATES: Final = {
    "Deployment": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


def read_template(obj: object, kind: str) -> Pod:
    """The pod template of a workload of that kind; paths in messages start with its own.

    An empty pod for any other kind, and for a workload that another one owns: a Deployment's
    ReplicaSet would repeat to the controller what the user has been told.
    """
    workload = mapping(obj)
    steps = TEMPLATES.get(kind)
    if steps is None or _is_owned(workload):
        return read_pod(None)
    template: Any = workload
    for step in steps:
        template = mapping(template).get(step)
    return read_pod(template, prefix=f"{'.'.join(steps)}.")


def _is_owned(workload: object) -> bool:
    owners = sequence(mapping(mapping(workload).get("metadata")).get("ownerReferences"))
    return any(mapping(owner).get("controller") is True for owner in owners)
