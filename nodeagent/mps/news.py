"""What pods are told of the daemon that serves them. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mpslice.gpus import GpuUuid
from nodeagent.hardware import MpsHealth
from nodeagent.mps.client import MPS_DOWN, MPS_FAULT


@dataclass(frozen=True, slots=True)
class News:
    """An Event on every pod that has a slice of the GPU."""

    gpu: GpuUuid
    reason: str
    message: str


def news(before: Mapping[GpuUuid, MpsHealth], after: Mapping[GpuUuid, MpsHealth]) -> Iterator[News]:
    """What has become of daemons that were there before, as it concerns their clients."""
    for gpu, now in after.items():
        was = before.get(gpu)
        if was is None:
            continue
        if now.reason == MPS_FAULT and was.reason != MPS_FAULT:
            yield News(gpu, MPS_FAULT, f"the GPU of its slice cannot be used: {now.detail}")
        if now.reason == MPS_DOWN and was.reason != MPS_DOWN and now.restarts == was.restarts:
            text = f"the MPS daemon of its slice does not serve: {now.detail}"
            yield News(gpu, MPS_DOWN, f"{text}; programs that start wait for it")
        if now.restarts > was.restarts:
            yield News(
                gpu,
                "MpsRestarted",
                "the MPS daemon of its slice has ended and was started again; programs that "
                "used the GPU until then have lost it and have to be started again",
            )
