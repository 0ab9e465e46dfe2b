"""A slice that another mutating webhook adds after ours has passed the pod over."""

from webhook.pods import Container, Pod
from webhook.rules.facts import Facts


def passed_over(pod: Pod, facts: Facts) -> bool:
    """Whether a pod that is created has a slice that /mutate was not asked about.

    The API server calls a mutating webhook again only if it was called in the first round
    (mutating/dispatcher.go); ours is not called for a pod to which a later one adds the slice. Then
    the pod has nothing of what /mutate always leaves: hostIPC, our gate (which a pod with a node
    does not get), a decision about privilege escalation.
    """
    if not facts.creating or facts.completing or pod.host_ipc:
        return False
    if facts.settings.gate and not pod.bound:
        return not pod.gated
    return any(container.escalation_open for container in pod.slice_containers)


def shows_late(pod: Pod, container: Container, facts: Facts) -> bool:
    """Whether `host_ipc` or `mps_user` tells a container of such a pod that it was passed over.

    Without hostIPC only the missing user shows it. A container that brings the right user is judged
    by what else it has.
    """
    return facts.settings.host_ipc or pod.user_of(container) is None


def added_late(container: Container) -> str:
    """What a pod is told that `passed_over` is true of."""
    return (
        f"{container.slices[0].field} asks for {container.slices[0]}, but mpslice's mutating "
        "webhook was not asked about it; a webhook that adds slices has to run before it: name its "
        'configuration to sort before "mpslice-pods", or ask for the slice in the manifest'
    )
