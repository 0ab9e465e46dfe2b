"""The last hour of the cluster's GPU memory, in bounded memory. Pure; time is passed in."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

EVERY: Final = 30.0
"""Seconds between two samples."""

SAMPLES: Final = 120
"""As many as an hour has."""


@dataclass(frozen=True, slots=True)
class Sample:
    """GPU memory in gb at a moment, in seconds since 1970.

    `used` is held by pods and `left` is all the rest: free slices and memory that is not carved.
    `stranded` is the part of `left` on nodes that lack the CPU, the memory or the places for one
    more slice pod.
    """

    at: float
    used: int
    left: int
    stranded: int


@dataclass(slots=True)
class History:
    """The newest samples, the oldest first."""

    _samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(self._samples)

    def add(self, sample: Sample) -> None:
        """Keeps the sample; the oldest one goes when there are more than SAMPLES."""
        self._samples.append(sample)
