"""When a slice is there for its container."""

from collections.abc import Iterator

from webhook.pods import Pod, show
from webhook.rules.facts import Facts
from webhook.verdicts import Remark


def bound_already(pod: Pod, facts: Facts) -> Iterator[Remark]:
    """A pod with a node passes by the scheduler, the gate and so the planner."""
    for container in pod.slice_containers[:1] if pod.bound and facts.creating else ():
        yield Remark(
            "NodeNameSet",
            container.place,
            f"{pod.prefix}spec.nodeName is {show(pod.spec['nodeName'])}, so nothing is carved for "
            "it, and it fails unless its slice is free there; use a nodeSelector instead",
        )


def held_by_an_init_container(pod: Pod, _: Facts) -> Iterator[Remark]:
    """The kubelet keeps a container's devices until the pod ends."""
    for container in pod.slice_containers:
        if container.ends:
            yield Remark(
                "SliceInInitContainer",
                container.place,
                "its slice is held for the pod's life, and the pod fails if the kubelet restarts "
                "while mpslice's agent is away; ask for it in spec.containers instead",
            )
