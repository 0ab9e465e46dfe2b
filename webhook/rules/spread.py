"""What the annotation that spreads a group over GPUs may say, and on which pods."""

from collections.abc import Iterator

from mpslice.groups import GROUP_LABEL, SPREAD_ANNOTATION, SPREAD_OVER_GPUS
from webhook.pods import Pod, show
from webhook.rules.facts import Facts
from webhook.verdicts import Reason, Violation, violation


def spread_is_known(pod: Pod, _: Facts) -> Iterator[Violation]:
    """A pod that is not kept apart from its group, though its manifest says so, would fail late."""
    if SPREAD_ANNOTATION not in pod.annotations:
        return
    said = pod.annotations[SPREAD_ANNOTATION]
    found = f"{pod.prefix}metadata.annotations[{SPREAD_ANNOTATION}] is {show(said)}, but "
    if said != SPREAD_OVER_GPUS:
        found += f"groups can be spread by {SPREAD_OVER_GPUS} only; set it to {SPREAD_OVER_GPUS}"
    elif not pod.labels.get(GROUP_LABEL):
        found += f"the pod has no group; set its label {GROUP_LABEL}"
    else:
        return
    for container in pod.slice_containers[:1]:
        yield violation(
            Reason.INVALID_SPREAD, container.place, f"{found}, or leave the annotation out"
        )
