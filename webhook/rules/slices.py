"""What may be asked for: one slice, of a size that there is."""

from collections.abc import Iterator

from mpslice.errors import InvalidQuantity
from mpslice.quantities import milli
from mpslice.slices import (
    LARGEST_SIZE,
    RESOURCE_PREFIX,
    SliceSize,
    probably_meant,
    resource_name,
)
from webhook.pods import Ask, Container, Pod
from webhook.rules.facts import Facts
from webhook.verdicts import Reason, Violation, shorten, violation


def one_slice_a_container(pod: Pod, _: Facts) -> Iterator[Violation]:
    """MPS limits a process on one GPU to one number, so a container can hold one slice."""
    for container in pod.slice_containers:
        asks = container.slices
        count = sum([ask.amount or 0 for ask in asks])
        if count > 1:
            total = sum((ask.size or 0) * (ask.amount or 0) for ask in asks)
            asked = str(asks[0]) if len(asks) == 1 else f"{count} slices, {total}gb in all"
            yield violation(
                Reason.MULTIPLE_SLICES,
                container.place,
                f"{asks[0].field} asks for {asked}, but a container gets one slice; "
                f"ask for {_single(total)} instead",
            )


def _single(total: int) -> str:
    return f"{resource_name(SliceSize(total))}: 1" if total <= LARGEST_SIZE else "a single one"


def well_formed(pod: Pod, _: Facts) -> Iterator[Violation]:
    """No name that looks like a slice and is not one: such a pod would stay pending for ever."""
    for container in pod.containers:
        for ask in container.asks:
            if ask.size is None:
                yield violation(Reason.INVALID_SLICE, container.place, _no_slice(ask))
            elif ask.amount is None:
                yield _no_count(container, ask)


def _no_slice(ask: Ask) -> str:
    meant = probably_meant(ask.name)
    remedy = (
        f"write {shorten(meant)}"
        if meant
        else f"write {RESOURCE_PREFIX}<N>gb with a whole number N from 1 to {LARGEST_SIZE}"
    )
    return f"{ask.field} asks for {ask}, which is not a slice; {remedy}"


def api_would_refuse(pod: Pod, _: Facts) -> Iterator[Violation]:
    """The part of `well_formed` that the API server would answer before a validating webhook.

    It refuses fractions, and requests that lack their limit (ValidateResourceRequirements).
    """
    for container in pod.containers:
        for ask in container.asks:
            if ask.amount is None:
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
    return resource_name(SliceSize(size)) if 0 < size <= LARGEST_SIZE else None


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
