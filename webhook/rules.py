"""The rules that a slice pod has to keep, one function each, in the order of the contract.

A rule reads a `Pod` and yields a violation for each container that breaks it, init containers
first; it knows nothing of requests, patches or enforcement.
"""

import posixpath
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from mpslice.errors import InvalidQuantity
from mpslice.quantities import milli
from mpslice.slices import RESOURCE_PREFIX, SliceSize, probably_meant, resource_name
from webhook.pods import Ask, Container, Pod, show
from webhook.settings import Compute, Settings, TooLarge
from webhook.verdicts import Reason, Remark, Violation, shorten, violation

RUN_DIRECTORY: Final = "/run/mpslice"
DEV_SHM: Final = "/dev/shm"  # noqa: S108 -- a path in the container, compared and never opened

_RESERVED: Final = frozenset(
    {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_MPS_PIPE_DIRECTORY", "NVIDIA_VISIBLE_DEVICES"}
)
_RESERVED_IF_PROPORTIONAL: Final = _RESERVED | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"}
_LARGEST_SIZE: Final = 10**7 - 1  # gb; what a slice's name has digits for


class Facts(NamedTuple):
    """What a rule may know besides the pod; `largest` in gb, None while no GPU is known."""

    settings: Settings
    largest: int | None = None


Rule = Callable[[Pod, Facts], Iterator[Violation]]


def one_slice_a_container(pod: Pod, _: Facts) -> Iterator[Violation]:
    """MPS limits a process on one GPU to one number, so a container can hold one slice."""
    for container in pod.slice_containers:
        asks = container.slices
        count = sum(ask.count or 0 for ask in asks)
        total = sum((ask.size or 0) * (ask.count or 0) for ask in asks)
        if count > 1:
            asked = str(asks[0]) if len(asks) == 1 else f"{count} slices, {total}gb in all"
            yield violation(
                Reason.MULTIPLE_SLICES,
                container.place,
                f"{asks[0].field} asks for {asked}, but a container gets one slice; "
                f"ask for {_single(total)} instead",
            )


def _single(total: int) -> str:
    return f"{resource_name(SliceSize(total))}: 1" if total <= _LARGEST_SIZE else "a single one"


def well_formed(pod: Pod, _: Facts) -> Iterator[Violation]:
    """No name that looks like a slice and is none; such a pod would stay pending for ever."""
    for container in pod.containers:
        for ask in container.asks:
            if ask.size is None:
                yield violation(Reason.INVALID_SLICE, container.place, _no_slice(ask))
            elif ask.count is None:
                yield _no_count(container, ask)


def _no_slice(ask: Ask) -> str:
    meant = probably_meant(ask.name)
    remedy = (
        f"write {shorten(meant)}"
        if meant
        else f"write {RESOURCE_PREFIX}<N>gb with a whole number N of 1 or more"
    )
    return f"{ask.field} asks for {ask}, which is no slice; {remedy}"


def api_would_refuse(pod: Pod, _: Facts) -> Iterator[Violation]:
    """The part of `well_formed` that the API server would answer before a validating webhook.

    It refuses fractions, and requests that lack their limit (ValidateResourceRequirements).
    """
    for container in pod.containers:
        for ask in container.asks:
            if ask.count is None:
                yield _no_count(container, ask)
            elif ask.size is None and ask.field == "resources.requests":
                yield violation(Reason.INVALID_SLICE, container.place, _no_slice(ask))


def _no_count(container: Container, ask: Ask) -> Violation:
    name = _part_of(ask) or probably_meant(ask.name) or ask.name
    return violation(
        Reason.INVALID_SLICE,
        container.place,
        f"{ask.field} asks for {ask}, but slices are counted in whole numbers; "
        f"ask for {shorten(name)}: 1",
    )


def _part_of(ask: Ask) -> str | None:
    """The slice that a fraction of one stands for: half of 10gb is 5gb."""
    try:
        size = -(-(ask.size or 0) * milli(ask.written) // 1000)
    except InvalidQuantity:
        return None
    return resource_name(SliceSize(size)) if 0 < size <= _LARGEST_SIZE else None


def size_allowed(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """Only the sizes that the administrator lists, where there is a list."""
    allowed = facts.settings.allowed_sizes
    for container in pod.slice_containers if allowed else ():
        stray = next((ask for ask in container.slices if ask.size not in allowed), None)
        if stray is not None:
            sizes = ", ".join(f"{size}gb" for size in sorted(allowed)[:8])
            yield violation(
                Reason.SIZE_NOT_ALLOWED,
                container.place,
                f"{stray.field} asks for {stray}, a size that this cluster does not allow; "
                f"choose one of {sizes}{', ...' if len(allowed) > 8 else ''}",
            )


def no_user_namespace(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """A user namespace goes with neither way to reach MPS.

    The API server refuses hostIPC beside hostUsers: false (validateHostUsers). Without hostIPC, MPS
    sees the uid that the container has on the host (SO_PEERCRED), and would serve nobody else.
    """
    if pod.host_users:
        return
    why = (
        "which forbids the hostIPC that MPS needs"
        if facts.settings.host_ipc
        else "which gives it another uid on the host than the one that MPS serves"
    )
    for container in pod.slice_containers:
        yield violation(
            Reason.USER_NAMESPACE_CONFLICT,
            container.place,
            f"{container.slices[0].field} asks for {container.slices[0]}, but "
            f"{pod.prefix}spec.hostUsers is false, {why}; leave hostUsers out",
        )
        return


def host_ipc(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """An MPS client talks to its server through the host's shared memory."""
    for container in pod.slice_containers:
        # Beside hostUsers: false nobody could set it.
        if facts.settings.host_ipc and not pod.host_ipc and pod.host_users:
            yield violation(
                Reason.HOST_IPC_REQUIRED,
                container.place,
                f"{pod.prefix}spec.hostIPC is not true, but a slice needs it; set it, or find the "
                "admission webhook that takes it away again",
            )
            return


def mps_user(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """An MPS server serves one uid."""
    served = facts.settings.mps_user
    for container in pod.slice_containers:
        user = pod.user_of(container)
        if type(user) is int and user == served:
            continue
        if user is None:
            found, remedy = "securityContext.runAsUser is not set", f"set it to {served}"
        elif container.security.get("runAsUser") is not None:
            found = f"securityContext.runAsUser is {show(user)}"
            remedy = f"set it to {served} or leave it out"
        else:
            found = f"runAsUser is {show(user)}, set by the pod in {pod.prefix}spec.securityContext"
            remedy = f"set securityContext.runAsUser: {served} on the container"
        yield violation(
            Reason.RUN_AS_USER_MISMATCH,
            container.place,
            f"{found}, but MPS serves user {served} only; {remedy}",
        )


def root_allowed(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """The kubelet would not start a container that must not be root and has to be."""
    for container in pod.slice_containers if facts.settings.mps_user == 0 else ():
        if pod.non_root_of(container) is True:
            by_container = container.security.get("runAsNonRoot") is not None
            where = "" if by_container else f", set by the pod in {pod.prefix}spec.securityContext"
            yield violation(
                Reason.RUN_AS_NON_ROOT_CONFLICT,
                container.place,
                f"{'securityContext.' if by_container else ''}runAsNonRoot is true{where}, but MPS "
                "serves user 0 only; set it to false, or ask for another MPS user (mps.userID)",
            )


def no_whole_gpu(pod: Pod, _: Facts) -> Iterator[Violation]:
    """Two device plugins would each set NVIDIA_VISIBLE_DEVICES, and one of them would win."""
    for container in pod.slice_containers:
        whole = container.whole_gpus
        if whole:
            yield violation(
                Reason.SLICE_WITH_WHOLE_GPU,
                container.place,
                f"resources asks for {container.slices[0]} and for {shorten(whole[0])}; "
                "ask for one of them",
            )


def environment_untouched(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """A pod's env beats the device plugin's, and would lift the slice's limit.

    A debugging container that sets it would be an MPS client without any limit.
    """
    proportional = facts.settings.compute is Compute.PROPORTIONAL
    reserved = _RESERVED_IF_PROPORTIONAL if proportional else _RESERVED
    for container in pod.containers:
        if not container.slices and not pod.joins_slices(container):
            continue
        for index, name in enumerate(container.environment):
            if name in reserved:
                yield violation(
                    Reason.RESERVED_ENVIRONMENT,
                    container.place,
                    f"env[{index}] sets {name}, which is mpslice's to set in a slice pod; "
                    "remove it",
                )


def mounts_untouched(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """A mount there would cut the client off from its MPS server."""
    for container in pod.slice_containers:
        for mount in container.mounts:
            if is_below(mount.path, DEV_SHM):
                has = "the host's" if facts.settings.host_ipc else "its MPS server's"
                remedy = f"remove the mount, the container has {has} /dev/shm"
            elif is_below(mount.path, RUN_DIRECTORY):
                remedy = "mount it elsewhere"
            else:
                continue
            yield violation(
                Reason.RESERVED_MOUNT,
                container.place,
                f"volumeMounts[{mount.index}].mountPath is {show(mount.path)}, which would cut it "
                f"off from its MPS server; {remedy}",
            )


def is_below(path: str, directory: str) -> bool:
    """Whether a container path is `directory` or lies in it, however it is written.

    In most images /var/run is a link to /run, which the runtime follows.
    """
    normal = posixpath.normpath(f"/{path}").replace("//", "/", 1)
    normal = normal.removeprefix("/var") if normal.startswith("/var/run/") else normal
    return normal == directory or normal.startswith(f"{directory}/")


def fits_a_gpu(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """A slice larger than every GPU waits until somebody adds a larger one."""
    for container in pod.slice_containers if facts.largest else ():
        ask = max(container.slices, key=lambda ask: ask.size or 0)
        if facts.largest and (ask.size or 0) > facts.largest:
            yield violation(
                Reason.SLICE_TOO_LARGE,
                container.place,
                f"{ask.field} asks for {ask}, but the largest GPU here offers {facts.largest}gb; "
                f"ask for {resource_name(SliceSize(facts.largest))} or less, or add a larger GPU",
            )


RULES: Final[tuple[Rule, ...]] = (
    one_slice_a_container,
    well_formed,
    size_allowed,
    no_user_namespace,
    host_ipc,
    mps_user,
    root_allowed,
    no_whole_gpu,
    environment_untouched,
    mounts_untouched,
    fits_a_gpu,
)


def early_violations(pod: Pod, facts: Facts) -> tuple[Violation, ...]:
    """What /mutate refuses, because the API server would answer it next and less clearly."""
    return (*api_would_refuse(pod, facts), *no_user_namespace(pod, facts))


def violations(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """Every violation, in the order of the contract."""
    for rule in RULES:
        yield from rule(pod, facts)


def is_advice(found: Violation, settings: Settings) -> bool:
    """Whether a violation is a warning by itself, whatever the enforcement."""
    return found.reason is Reason.SLICE_TOO_LARGE and settings.too_large is TooLarge.WARN


def remarks(pod: Pod) -> Iterator[Remark]:
    """What is allowed and yet worth a warning."""
    for container in pod.containers:
        privileged = container.security.get("privileged") is True
        if privileged and (container.slices or pod.joins_slices(container)):
            yield Remark(
                "PrivilegedSlice",
                container.place,
                "securityContext.privileged is true, so it sees every GPU of the node and not only "
                "its slice; leave privileged out",
            )
        if container.slices and container.ends:
            yield Remark(
                "SliceInInitContainer",
                container.place,
                "its slice is held for the pod's life, and the pod fails if the kubelet restarts "
                "while mpslice's agent is away; ask for it in spec.containers instead",
            )
