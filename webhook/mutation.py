"""What a slice pod is completed with: the edits as JSON patch operations, built by hand.

Only what is missing is added, so applying the patch leaves nothing to add; the one removal is that
of mounts over /dev/shm, where the administrator wants it (`devShm: strip`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from webhook.pods import Container, Mount, Pod, mapping
from webhook.rules import DEV_SHM, is_below
from webhook.settings import GATE, DevShm, Settings
from webhook.verdicts import Operation, Place, Remark

_ESCAPES: Final = str.maketrans({"~": "~0", "/": "~1"})


def operations(pod: Pod, settings: Settings) -> list[Operation]:
    """The JSON patch that completes a slice pod; nothing for other pods."""
    patch: list[Operation] = []
    if not pod.slice_containers:
        return patch
    if needs_host_ipc(pod, settings):
        patch.append(_add("/spec/hostIPC", True))
    for container in pod.slice_containers:
        pointer = _pointer(container.place)
        if pod.user_of(container) is None:
            patch.append(_user(container, pointer, settings.mps_user))
        patch += _limits_and_requests(container, pointer)
        for mount in reversed(stripped(container, settings)):  # so that each index still holds
            patch.append({"op": "remove", "path": f"{pointer}/volumeMounts/{mount.index}"})
    if settings.gate and not pod.bound and not pod.has_gate(GATE):
        patch.append(_gate(pod.spec))
    return patch


def needs_host_ipc(pod: Pod, settings: Settings) -> bool:
    """Whether hostIPC is to be set; beside hostUsers: false it would only be refused."""
    return settings.host_ipc and not pod.host_ipc and pod.host_users


def _user(container: Container, pointer: str, user: int) -> Operation:
    if isinstance(container.raw.get("securityContext"), dict):
        return _add(f"{pointer}/securityContext/runAsUser", user)
    return _add(f"{pointer}/securityContext", {"runAsUser": user})


def _limits_and_requests(container: Container, pointer: str) -> Iterator[Operation]:
    resources = mapping(container.raw.get("resources"))
    limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
    for side, present, other in (("requests", requests, limits), ("limits", limits, requests)):
        missing = {ask.name: other[ask.name] for ask in container.slices if ask.name not in present}
        if missing and not isinstance(resources.get(side), dict):
            yield _add(f"{pointer}/resources/{side}", missing)
            continue
        for name, value in missing.items():
            yield _add(f"{pointer}/resources/{side}/{name.translate(_ESCAPES)}", value)


def stripped(container: Container, settings: Settings) -> tuple[Mount, ...]:
    """The mounts that `devShm: strip` takes away."""
    if settings.dev_shm is not DevShm.STRIP or not container.slices:
        return ()
    return tuple(mount for mount in container.mounts if is_below(mount.path, DEV_SHM))


def strip_remarks(pod: Pod, settings: Settings) -> Iterator[Remark]:
    """A warning for each mount that is taken away."""
    for container in pod.containers:
        for mount in stripped(container, settings):
            yield Remark(
                "DevShmStripped",
                container.place,
                f"volumeMounts[{mount.index}] at {DEV_SHM} is taken away, because it would cut the "
                "container off from its MPS server; remove it from the manifest",
            )


def _gate(spec: Mapping[str, Any]) -> Operation:
    if isinstance(spec.get("schedulingGates"), list):
        return _add("/spec/schedulingGates/-", {"name": GATE})
    return _add("/spec/schedulingGates", [{"name": GATE}])


@lru_cache(maxsize=1024)
def _pointer(place: Place) -> str:
    """`/spec/containers/0` for `spec.containers[0]`."""
    return "/" + place.path.replace(".", "/").replace("[", "/").replace("]", "")


def _add(path: str, value: object) -> Operation:
    return {"op": "add", "path": path, "value": value}


def completed(pod: Pod, settings: Settings) -> Pod:
    """The pod as it will be once the edits are applied, for judging it before they are."""
    if not pod.slice_containers:
        return pod
    containers = tuple(_completed(pod, container, settings) for container in pod.containers)
    return replace(
        pod,
        containers=containers,
        slice_containers=tuple(container for container in containers if container.slices),
        host_ipc=pod.host_ipc or needs_host_ipc(pod, settings),
    )


def _completed(pod: Pod, container: Container, settings: Settings) -> Container:
    if not container.slices:
        return container
    gone = frozenset(mount.index for mount in stripped(container, settings))
    added = {"runAsUser": settings.mps_user} if pod.user_of(container) is None else {}
    return replace(container, security={**container.security, **added}, stripped=gone)
