"""How a container reaches its MPS server: through the host's IPC namespace and users."""

from collections.abc import Iterator

from webhook.pods import Pod
from webhook.rules.facts import Facts
from webhook.rules.late import added_late, passed_over
from webhook.verdicts import Reason, Violation, violation


def no_user_namespace(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """A user namespace goes with neither way to reach MPS.

    The API server refuses hostIPC beside hostUsers: false (validateHostUsers). Without hostIPC, MPS
    sees the uid that the container has on the host (SO_PEERCRED), and serves only its own user.
    """
    if pod.host_users:
        return
    why = (
        "which forbids the hostIPC that MPS needs"
        if facts.settings.host_ipc
        else "which gives it another uid on the host than the one that MPS serves"
    )
    for container in pod.slice_containers[:1]:
        yield violation(
            Reason.USER_NAMESPACE_CONFLICT,
            container.place,
            f"{container.slices[0].field} asks for {container.slices[0]}, but "
            f"{pod.prefix}spec.hostUsers is false, {why}; leave hostUsers out",
        )


def host_ipc(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """An MPS client talks to its server through the host's shared memory."""
    if not facts.settings.host_ipc or pod.host_ipc or facts.completing:
        return
    if not pod.takes_host_ipc:  # what keeps it from being set has a reason of its own
        return
    for container in pod.slice_containers[:1]:
        detail = (
            added_late(container)
            if passed_over(pod, facts)
            else f"{pod.prefix}spec.hostIPC is not true, but a slice needs it; set it, or find the "
            "admission webhook that takes it away again"
        )
        yield violation(Reason.HOST_IPC_REQUIRED, container.place, detail)
