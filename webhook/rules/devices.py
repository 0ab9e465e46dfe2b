"""No second way to a GPU beside the slice."""

from collections.abc import Iterator
from typing import Final

from webhook.pods import Pod
from webhook.rules.facts import Facts
from webhook.verdicts import Reason, Remark, Violation, shorten, violation

_CUDA_DEVICES: Final = frozenset({"CUDA_VISIBLE_DEVICES"})


def no_whole_gpu(pod: Pod, _: Facts) -> Iterator[Violation]:
    """Two device plugins would each set NVIDIA_VISIBLE_DEVICES, and one of them would win."""
    for container in pod.slice_containers:
        whole = container.whole_gpus
        if whole:
            yield violation(
                Reason.SLICE_WITH_WHOLE_GPU,
                container.place,
                f"resources asks for {container.slices[0]} and for {shorten(min(whole))}; "
                "ask for one of them",
            )


def claims_beside_a_slice(pod: Pod, _: Facts) -> Iterator[Remark]:
    """A claim may be for a network card, or for a second GPU; only its driver knows."""
    for container in pod.slice_containers:
        if container.claims:
            yield Remark(
                "SliceWithClaim",
                container.place,
                "resources.claims is used beside a slice; if the claim is for a GPU, the container "
                "gets both and CUDA fails or takes the wrong one: ask for one of them",
            )


def cuda_devices_chosen(pod: Pod, _: Facts) -> Iterator[Remark]:
    """In the container the slice's GPU is the only one, so every index but 0 hides it."""
    for container in pod.slice_containers:
        for variable in container.variables(_CUDA_DEVICES):
            if variable.value != "0":
                yield Remark(
                    "CudaVisibleDevices",
                    container.place,
                    f"env[{variable.position}] sets CUDA_VISIBLE_DEVICES, but the slice's GPU is "
                    "the only one in the container, and another number hides it; remove it",
                )
