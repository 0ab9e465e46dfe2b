"""What a slice pod is completed with: the edits as JSON patch operations, built by hand.

Only what is missing is added, so applying the patch leaves nothing to add; the one removal is that
of mounts over /dev/shm, where the administrator wants it (`devShm: strip`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from webhook.pods import Container, Mount, Pod, mapping
from webhook.rules import DEV_SHM, is_below
from webhook.settings import GATE, DevShm, Settings
from webhook.verdicts import Operation, Remark

_ESCAPES: Final = str.maketrans({"~": "~0", "/": "~1"})


@dataclass(frozen=True, slots=True)
class Edit:
    """One operation, and the field that it completes as an audit annotation names it."""

    field: str
    operation: Operation


def edits(pod: Pod, spec: Mapping[str, Any], settings: Settings) -> Iterator[Edit]:
    """The edits that complete a slice pod; `spec` is the pod's raw spec. Nothing for other pods."""
    if not pod.is_slice_pod:
        return
    if needs_host_ipc(pod, settings):
        yield Edit("spec.hostIPC", _add("/spec/hostIPC", True))
    for container in pod.slice_containers:
        yield from _user(pod, container, settings)
        yield from _limits_and_requests(container)
        yield from _strip(container, settings)
    if settings.gate and not pod.bound and GATE not in pod.gates:
        yield _gate(spec)


def needs_host_ipc(pod: Pod, settings: Settings) -> bool:
    """Whether hostIPC is to be set; beside hostUsers: false it would only be refused."""
    return settings.host_ipc and not pod.host_ipc and pod.host_users


def _user(pod: Pod, container: Container, settings: Settings) -> Iterator[Edit]:
    if pod.user_of(container) is not None:
        return
    path = f"{_pointer(container)}/securityContext"
    field = f"{container.place.path}.securityContext.runAsUser"
    if isinstance(container.raw.get("securityContext"), dict):
        yield Edit(field, _add(f"{path}/runAsUser", settings.mps_user))
    else:
        yield Edit(field, _add(path, {"runAsUser": settings.mps_user}))


def _limits_and_requests(container: Container) -> Iterator[Edit]:
    resources = mapping(container.raw.get("resources"))
    limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
    both = (("requests", requests, limits), ("limits", limits, requests))
    for side, present, other in both:
        missing = {ask.name: other[ask.name] for ask in container.slices if ask.name not in present}
        path = f"{_pointer(container)}/resources/{side}"
        field = f"{container.place.path}.resources.{side}"
        if missing and not isinstance(resources.get(side), dict):
            yield Edit(field, _add(path, missing))
        elif missing:
            for name, value in missing.items():
                yield Edit(field, _add(f"{path}/{name.translate(_ESCAPES)}", value))


def stripped(container: Container, settings: Settings) -> tuple[Mount, ...]:
    """The mounts that `devShm: strip` takes away."""
    if settings.dev_shm is not DevShm.STRIP or not container.slices:
        return ()
    return tuple(mount for mount in container.mounts if is_below(mount.path, DEV_SHM))


def _strip(container: Container, settings: Settings) -> Iterator[Edit]:
    # From the last to the first, so that each index still holds when its turn comes.
    for mount in reversed(stripped(container, settings)):
        yield Edit(
            f"{container.place.path}.volumeMounts[{mount.index}]",
            {"op": "remove", "path": f"{_pointer(container)}/volumeMounts/{mount.index}"},
        )


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


def _gate(spec: Mapping[str, Any]) -> Edit:
    gate = {"name": GATE}
    listed = isinstance(spec.get("schedulingGates"), list)
    if listed:
        return Edit("spec.schedulingGates", _add("/spec/schedulingGates/-", gate))
    return Edit("spec.schedulingGates", _add("/spec/schedulingGates", [gate]))


def _pointer(container: Container) -> str:
    """`/spec/containers/0` for `spec.containers[0]`."""
    return "/" + container.place.path.replace(".", "/").replace("[", "/").replace("]", "")


def _add(path: str, value: object) -> Operation:
    return {"op": "add", "path": path, "value": value}


def completed(pod: Pod, settings: Settings) -> Pod:
    """The pod as it will be once the edits are applied, for judging a template before its pods."""
    if not pod.is_slice_pod:
        return pod
    containers = tuple(_completed(pod, container, settings) for container in pod.containers)
    return replace(
        pod, containers=containers, host_ipc=pod.host_ipc or needs_host_ipc(pod, settings)
    )


def _completed(pod: Pod, container: Container, settings: Settings) -> Container:
    if not container.slices:
        return container
    gone = stripped(container, settings)
    user = container.run_as_user if pod.user_of(container) is not None else settings.mps_user
    mounts = tuple(mount for mount in container.mounts if mount not in gone)
    return replace(container, run_as_user=user, mounts=mounts)
