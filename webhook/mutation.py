"""What a slice pod is completed with: the edits as JSON patch operations, built by hand.

Only what is missing is added, so applying the patch leaves nothing to add; the one removal is that
of mounts over /dev/shm, where the administrator wants it (`devShm: strip`).
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from webhook.pods import Container, Mount, Pod, mapping, show
from webhook.rules import DEV_SHM, is_below
from webhook.settings import GATE, DevShm, Settings
from webhook.verdicts import EMPTY, Operation, Remark

_ESCAPES: Final = str.maketrans({"~": "~0", "/": "~1"})


@lru_cache(maxsize=1024)
def _add(path: str, value: str) -> Operation:
    """`value` is JSON."""
    return Operation(path, f'{{"op":"add","path":{_json(path)},"value":{value}}}')


def _remove(path: str) -> Operation:
    return Operation(path, f'{{"op":"remove","path":{_json(path)}}}')


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


_HOST_IPC: Final = _add("/spec/hostIPC", "true")
_ONLY_GATE: Final = _add("/spec/schedulingGates", _json([{"name": GATE}]))
_ANOTHER_GATE: Final = _add("/spec/schedulingGates/-", _json({"name": GATE}))


def operations(pod: Pod, settings: Settings) -> tuple[Operation, ...]:
    """The JSON patch that completes a slice pod; nothing for other pods."""
    if not pod.slice_containers:
        return ()
    patch: list[Operation] = []
    strips = settings.dev_shm is DevShm.STRIP
    if needs_host_ipc(pod, settings):
        patch.append(_HOST_IPC)
    for container in pod.slice_containers:
        pointer = container.pointer
        if pod.user_of(container) is None:
            patch.append(_user(container, pointer, settings.mps_user))
        if container.limits.keys() != container.requests.keys():
            patch += _limits_and_requests(container, pointer)
        # From the last to the first, so that each index still holds.
        for mount in reversed(stripped(container, settings)) if strips else ():
            patch.append(_remove(f"{pointer}/volumeMounts/{mount.index}"))
    if settings.gate and not pod.bound:
        patch += _gate(pod.spec.get("schedulingGates"))
    return tuple(patch)


def needs_host_ipc(pod: Pod, settings: Settings) -> bool:
    """Whether hostIPC is to be set; beside hostUsers: false it would only be refused."""
    return settings.host_ipc and not pod.host_ipc and pod.host_users


def _user(container: Container, pointer: str, user: int) -> Operation:
    if container.security is EMPTY:
        return _add(f"{pointer}/securityContext", f'{{"runAsUser":{user}}}')
    return _add(f"{pointer}/securityContext/runAsUser", str(user))


def _limits_and_requests(container: Container, pointer: str) -> Iterator[Operation]:
    limits, requests = container.limits, container.requests
    for side, present, other in (("requests", requests, limits), ("limits", limits, requests)):
        missing = [ask.name for ask in container.slices if ask.name not in present]
        if not missing:
            continue
        if present is EMPTY:
            yield _add(f"{pointer}/resources/{side}", _json({n: other[n] for n in missing}))
            continue
        for name in missing:
            field = name.translate(_ESCAPES)
            yield _add(f"{pointer}/resources/{side}/{field}", _json(other[name]))


def _gate(gates: object) -> tuple[Operation, ...]:
    if not isinstance(gates, list):
        return (_ONLY_GATE,)
    ours = any(mapping(gate).get("name") == GATE for gate in gates)
    return () if ours else (_ANOTHER_GATE,)


def stripped(container: Container, settings: Settings) -> tuple[Mount, ...]:
    """The mounts that `devShm: strip` takes away."""
    if settings.dev_shm is not DevShm.STRIP or not container.slices:
        return ()
    return tuple(mount for mount in container.mounts if is_below(mount.path, DEV_SHM))


def strip_remarks(pod: Pod, settings: Settings) -> tuple[Remark, ...]:
    """A warning for each mount that is taken away."""
    if settings.dev_shm is not DevShm.STRIP:
        return ()
    return tuple(
        Remark(
            "DevShmStripped",
            container.place,
            f"volumeMounts[{mount.index}] at {show(mount.path)} is taken away, because it would "
            "cut the container off from its MPS server; remove it from the manifest",
        )
        for container in pod.containers
        for mount in stripped(container, settings)
    )


def completed(pod: Pod, settings: Settings) -> Pod:
    """The pod as it will be once the edits are applied, for judging it before they are."""
    if not pod.slice_containers:
        return pod
    containers = tuple(_completed(pod, container, settings) for container in pod.containers)
    return pod._replace(
        containers=containers,
        slice_containers=tuple(container for container in containers if container.slices),
        host_ipc=pod.host_ipc or needs_host_ipc(pod, settings),
    )


def _completed(pod: Pod, container: Container, settings: Settings) -> Container:
    if not container.slices:
        return container
    gone = frozenset(mount.index for mount in stripped(container, settings))
    added = {"runAsUser": settings.mps_user} if pod.user_of(container) is None else {}
    return container._replace(security={**container.security, **added}, stripped=gone)
