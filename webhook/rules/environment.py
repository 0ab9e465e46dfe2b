"""The variables by which CUDA finds its slice, and which hold its limit."""

from collections.abc import Iterator
from typing import Final

from webhook.pods import Container, Pod, Variable
from webhook.rules.facts import Facts
from webhook.settings import Compute
from webhook.verdicts import Reason, Violation, violation

VISIBLE_DEVICES: Final = "NVIDIA_VISIBLE_DEVICES"
RESERVED: Final = frozenset(
    {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_MPS_PIPE_DIRECTORY", VISIBLE_DEVICES}
)
RESERVED_IF_PROPORTIONAL: Final = RESERVED | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"}
NO_DEVICES: Final = ("", "none", "void")
"""Values of NVIDIA_VISIBLE_DEVICES by which NVIDIA's runtime gives a container no GPU."""


def environment_untouched(pod: Pod, facts: Facts) -> Iterator[Violation]:
    """No container of a slice pod sets them.

    In the slice's own container they would beat the device plugin's values and lift the limit; any
    other container would be an MPS client without a limit, or see every GPU of the node.
    """
    if not pod.slice_containers:
        return
    proportional = facts.settings.compute is Compute.PROPORTIONAL
    reserved = RESERVED_IF_PROPORTIONAL if proportional else RESERVED
    for container in pod.containers:
        for variable in container.variables(reserved):
            if not _is_harmless(variable, container):
                yield violation(
                    Reason.RESERVED_ENVIRONMENT,
                    container.place,
                    f"env[{variable.position}] sets {variable.name}, which only mpslice may set in "
                    "a slice pod; remove it",
                )


def _is_harmless(variable: Variable, container: Container) -> bool:
    """Whether it says of a container without a slice that it gets no GPU."""
    return (
        not container.slices and variable.name == VISIBLE_DEVICES and variable.value in NO_DEVICES
    )
