"""What a pod as a whole may be: for Linux, with the host's IPC, of a size that pods have."""

from collections.abc import Iterator
from typing import Final

from webhook.pods import MOST_CONTAINERS, MOST_ENTRIES, Pod, show
from webhook.rules.facts import Facts
from webhook.verdicts import Place, Reason, Remark, Violation, shorten, violation

_SANDBOXES: Final = ("gvisor", "runsc", "kata")


def within_bounds(pod: Pod, _: Facts) -> Iterator[Violation]:
    """What nobody runs is not worth judging: it only costs time that others wait for."""
    if pod.surplus is not None:
        yield violation(
            Reason.UNSUPPORTED_POD,
            pod.surplus,
            f"a pod that asks for slices may have {MOST_CONTAINERS} containers, and {MOST_ENTRIES} "
            "variables, mounts and resources in all of them; this is beyond that: leave some out",
        )


def runs_on_linux(pod: Pod, _: Facts) -> Iterator[Violation]:
    """There is no MPS on Windows, and the API server refuses all that we add for it there."""
    if pod.windows:
        yield from _unsupported(
            pod, f"{pod.prefix}spec.os.name is windows, but MPS runs on Linux only", "leave os out"
        )


def sysctls_go_with_host_ipc(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """The API server refuses a sysctl of the IPC namespace where that is the host's."""
    for position, name in pod.ipc_sysctls if facts.settings.host_ipc else ():
        field = f"{pod.prefix}spec.securityContext.sysctls[{position}]"
        found = f"{field} sets {shorten(name)}, but slice pods share the host's IPC namespace"
        yield from _unsupported(pod, found, "remove it")


def _unsupported(pod: Pod, found: str, remedy: str) -> Iterator[Violation]:
    for container in pod.slice_containers[:1]:
        ask = container.slices[0]
        yield violation(
            Reason.UNSUPPORTED_POD,
            container.place,
            f"{ask.field} asks for {ask}, and {found}; {remedy}",
        )


def host_processes(pod: Pod, _: Facts) -> Iterator[Remark]:
    """All slices run as the MPS user, and a process may end those of its own user that it sees."""
    for place in _first(pod) if pod.spec.get("hostPID") is True else ():
        yield Remark(
            "HostPID",
            place,
            f"{pod.prefix}spec.hostPID is true, so its processes can end those of every other "
            "slice of the node, which run as the same user; leave hostPID out",
        )


def sandboxed(pod: Pod, _: Facts) -> Iterator[Remark]:
    """A sandbox with a kernel of its own has no shared memory with an MPS server."""
    name = pod.spec.get("runtimeClassName", "")
    if any(sandbox in name.lower() for sandbox in _SANDBOXES):
        for place in _first(pod):
            yield Remark(
                "SandboxedRuntime",
                place,
                f"{pod.prefix}spec.runtimeClassName is {show(name)}; in a sandbox such as gVisor "
                "or Kata CUDA cannot reach the MPS server: use another RuntimeClass",
            )


def _first(pod: Pod) -> list[Place]:
    return [container.place for container in pod.slice_containers[:1]]
