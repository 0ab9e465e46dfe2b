"""Whether a process in a slice container may become root, which ends the GPU's MPS daemon.

The control program obeys `quit` from uid 0 in a container that has no capability at all; a setuid
program in the image is enough for that, unless the container has no_new_privs.
"""

from collections.abc import Iterator
from typing import Final

from webhook.pods import Container, Pod, show
from webhook.rules.facts import Facts
from webhook.rules.late import passed_over, shows_late
from webhook.verdicts import Reason, Remark, Violation, violation

_ADMIN: Final = frozenset({"SYS_ADMIN", "ALL"})


def no_escalation(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """A slice container is not privileged, does not administrate, and has no_new_privs."""
    for container in () if pod.windows else pod.slice_containers:
        found = _escalation(container, facts)
        if not found or (
            # A container that is told of that is told only that.
            container.escalation_open
            and passed_over(pod, facts)
            and shows_late(pod, container, facts)
        ):
            continue
        yield violation(Reason.PRIVILEGE_ESCALATION, container.place, found)


def _escalation(container: Container, facts: Facts) -> str:
    if container.privileged:
        return (
            "securityContext.privileged is true, so it sees every GPU of the node and can end the "
            "GPU's MPS daemon; leave privileged out"
        )
    for index, name in enumerate(container.added_capabilities):
        if isinstance(name, str) and name.upper().removeprefix("CAP_") in _ADMIN:
            return (
                f"securityContext.capabilities.add[{index}] is {show(name)}, with which it can "
                "end the GPU's MPS daemon, and every slice there with it; leave it out"
            )
    value = container.security.get("allowPrivilegeEscalation")
    if value is False or (facts.completing and value is None):
        return ""
    is_what = "not set" if value is None else show(value)
    return (
        f"securityContext.allowPrivilegeEscalation is {is_what}, so a setuid program in its image "
        "can end the GPU's MPS daemon, and every slice there with it; set it to false"
    )


def privileged_debugging(pod: Pod, _: Facts) -> Iterator[Remark]:
    """A debugging container asks for nothing itself, and sees what the pod sees."""
    for container in pod.containers if pod.slice_containers else ():
        if container.kind == "ephemeralContainers" and container.privileged:
            yield Remark(
                "PrivilegedSlice",
                container.place,
                "securityContext.privileged is true, so it sees every GPU of the node and not only "
                "the pod's slices; leave privileged out",
            )
