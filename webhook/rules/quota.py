"""What a pod asks for as mpslice.io/gb is what its slices count, so that no quota is evaded."""

from collections.abc import Iterator

from mpslice.slices import GB_RESOURCE
from webhook.pods import Container, Pod, show
from webhook.quota import charges, is_as
from webhook.rules.facts import Facts
from webhook.rules.late import passed_over, shows_late
from webhook.verdicts import Reason, Violation, violation


def gb_as_counted(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """/mutate has set it on slice pods; somebody else may change it after that.

    A pod without a slice that asks for it would hold the quota of others, and wait for ever where
    no node offers it.
    """
    completed = facts.completing and pod.slice_containers
    if not facts.settings.quota or completed:
        return
    late = passed_over(pod, facts)
    for container, gb in zip(pod.containers, charges(pod, facts.settings), strict=True):
        if late and container.slices and shows_late(pod, container, facts):
            continue  # it is told that, and only that
        sides = {"limits": container.limits, "requests": container.requests}
        wrong = next((side for side, amounts in sides.items() if not is_as(amounts, gb)), "")
        if wrong:
            written = sides[wrong].get(GB_RESOURCE)
            found = f"resources.{wrong} {_what(written)}, but {_counted(container, gb)}"
            yield violation(Reason.QUOTA_MISMATCH, container.place, found)


def _what(written: object) -> str:
    if written is None:
        return f"does not ask for {GB_RESOURCE}"
    return f"asks for {GB_RESOURCE}: {show(written)}"


def _counted(container: Container, gb: int) -> str:
    if not gb:
        return (
            "it counts slices, and the container has none; leave it out, and give a LimitRange "
            f"that sets it the default {GB_RESOURCE}: 0"
        )
    more = "" if gb == container.gb else " with the slices that init containers leave behind"
    return f"it counts {gb}gb{more}; leave it to mpslice's mutating webhook, and change it nowhere"
