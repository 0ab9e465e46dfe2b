"""What a slice pod is completed with, as operations of a JSON patch.

Only what is missing is added, so applying the patch leaves nothing to add; the one removal is that
of mounts over /dev/shm, where the administrator wants it (`devShm: strip`).
"""

from collections.abc import Iterator
from typing import Any, Final

from mpslice.slices import GB_RESOURCE
from webhook.pods import Container, Pod, show
from webhook.quota import charges, is_as
from webhook.rules.mounts import stripped
from webhook.settings import GATE, DevShm, Settings
from webhook.verdicts import EMPTY, Operation, Remark

_ESCAPES: Final = str.maketrans({"~": "~0", "/": "~1"})


def _add(path: str, value: Any) -> Operation:
    return {"op": "add", "path": path, "value": value}


_HOST_IPC: Final = _add("/spec/hostIPC", True)
_GB: Final = GB_RESOURCE.translate(_ESCAPES)
_ONLY_GATE: Final = _add("/spec/schedulingGates", [{"name": GATE}])
_ANOTHER_GATE: Final = _add("/spec/schedulingGates/-", {"name": GATE})


def operations(pod: Pod, settings: Settings) -> tuple[Operation, ...]:
    """The JSON patch that completes a slice pod; nothing for other pods, and for Windows."""
    if not pod.slice_containers or pod.windows:
        return ()
    patch: list[Operation] = []
    if settings.host_ipc and not pod.host_ipc and pod.takes_host_ipc:
        patch.append(_HOST_IPC)
    if settings.pod_runtime_class_name and not pod.spec.get("runtimeClassName"):
        patch.append(_add("/spec/runtimeClassName", settings.pod_runtime_class_name))
    for container in pod.slice_containers:
        added = _added_security(pod, container, settings)
        if added and container.security is EMPTY:
            patch.append(_add(f"{container.pointer}/securityContext", added))
        else:
            pointer = f"{container.pointer}/securityContext"
            patch += [_add(f"{pointer}/{field}", value) for field, value in added.items()]
        if container.limits.keys() != container.requests.keys():
            patch += _limits_and_requests(container)
        # From the last to the first, so that each index still holds.
        for mount in reversed(stripped(container, settings)):
            pointer = f"{container.pointer}/volumeMounts/{mount.position}"
            patch.append({"op": "remove", "path": pointer})
    if settings.quota or pod.names_gb:
        for container, gb in zip(pod.containers, charges(pod, settings), strict=True):
            if gb or GB_RESOURCE in container.amounts:
                patch += _counted(container, gb)
    if settings.gate and not pod.bound and not pod.gated:
        patch.append(_ANOTHER_GATE if "schedulingGates" in pod.spec else _ONLY_GATE)
    return tuple(patch)


def _added_security(pod: Pod, container: Container, settings: Settings) -> dict[str, int | bool]:
    """What its securityContext gets: the MPS user, and no way to become root."""
    added: dict[str, int | bool] = {}
    if pod.user_of(container) is None:
        added["runAsUser"] = settings.mps_user
    if container.escalation_open:
        added["allowPrivilegeEscalation"] = False
    return added


def _limits_and_requests(container: Container) -> Iterator[Operation]:
    limits, requests = container.limits, container.requests
    for side, present, other in (("requests", requests, limits), ("limits", limits, requests)):
        missing = [ask.name for ask in container.slices if ask.name not in present]
        if not missing:
            continue
        pointer = f"{container.pointer}/resources/{side}"
        if present is EMPTY:
            yield _add(pointer, {name: other[name] for name in missing})
            continue
        for name in missing:
            yield _add(f"{pointer}/{name.translate(_ESCAPES)}", other[name])


def _counted(container: Container, gb: int) -> Iterator[Operation]:
    """What makes both ask for so many gb; a container with slices has both by then."""
    resources = f"{container.pointer}/resources"
    for side, present in (("requests", container.requests), ("limits", container.limits)):
        if is_as(present, gb):
            continue
        if present is not EMPTY or container.slices:
            yield _add(f"{resources}/{side}/{_GB}", str(gb))
            continue
        if side == "requests" and "resources" not in container.raw:
            yield _add(resources, {})
        yield _add(f"{resources}/{side}", {GB_RESOURCE: str(gb)})


def strip_remarks(pod: Pod, settings: Settings) -> tuple[Remark, ...]:
    """A warning for each mount that is taken away."""
    if settings.dev_shm is not DevShm.STRIP:
        return ()
    return tuple(
        Remark(
            "DevShmStripped",
            container.place,
            f"volumeMounts[{mount.position}] at {show(mount.path)} is taken away, because it would "
            "cut the container off from its MPS server; remove it from the manifest",
        )
        for container in pod.containers
        for mount in stripped(container, settings)
    )
