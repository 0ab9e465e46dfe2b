"""As which user a slice container runs: an MPS server serves one."""

from collections.abc import Iterator

from webhook.pods import Pod, show
from webhook.rules.facts import Facts
from webhook.rules.late import added_late, passed_over
from webhook.verdicts import Reason, Violation, violation


def mps_user(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """An MPS server serves one uid."""
    served = facts.settings.mps_user
    for container in () if pod.windows else pod.slice_containers:
        user = pod.user_of(container)
        if type(user) is int and user == served:
            continue
        if user is None and facts.completing:
            continue
        if user is None and passed_over(pod, facts):
            if not facts.settings.host_ipc:  # host_ipc says it otherwise
                place = container.place
                yield violation(Reason.RUN_AS_USER_MISMATCH, place, added_late(container))
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
