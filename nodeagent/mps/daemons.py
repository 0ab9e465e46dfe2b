"""The supervisor's side of its line to the reaper: which daemons live, and the start of one."""

import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from mpslice.gpus import GpuUuid
from nodeagent.mps.errors import DaemonDidNotStart, ReaperSilent

_SECONDS: Final = 5.0
_LONGEST_ANSWER: Final = 1 << 16  # bytes


@dataclass(frozen=True, slots=True)
class Roll:
    """The daemons that live, by PID, and how the last one of other GPUs ended.

    `reaper` is the PID of the process that answers.
    """

    reaper: int = 0
    living: Mapping[GpuUuid, int] = field(default_factory=dict)
    ended: Mapping[GpuUuid, int] = field(default_factory=dict)


class Daemons(Protocol):
    """The control daemons of this container. Calls block for a moment; they raise MpsErrors."""

    def roll(self) -> Roll:
        """Which daemons live at this moment."""
        ...

    def start(self, gpu: GpuUuid) -> Roll:
        """Starts the daemon of a GPU, unless it lives. Raises DaemonDidNotStart."""
        ...

    def kill(self, gpu: GpuUuid, number: int) -> Roll:
        """Sends the daemon of a GPU a signal, if it lives."""
        ...


class ReaperLine:
    """The real `Daemons`. Several threads may call at a time."""

    def __init__(self, line: socket.socket, seconds: float = _SECONDS) -> None:
        self._line = line
        self._line.settimeout(seconds)
        self._turn = threading.Lock()
        self._number = 0

    def roll(self) -> Roll:
        return _roll(self._ask(do="list"))

    def start(self, gpu: GpuUuid) -> Roll:
        answer = self._ask(do="start", gpu=gpu)
        if answer["error"]:
            raise DaemonDidNotStart(
                f"the MPS control daemon of {gpu} did not start: {answer['error']}"
            )
        return _roll(answer)

    def kill(self, gpu: GpuUuid, number: int) -> Roll:
        return _roll(self._ask(do="kill", gpu=gpu, signal=number))

    def _ask(self, **request: object) -> dict[str, Any]:
        with self._turn:
            self._number += 1
            try:
                self._line.send(json.dumps({"id": self._number, **request}).encode())
                while True:
                    answer: dict[str, Any] = json.loads(self._line.recv(_LONGEST_ANSWER))
                    if answer["id"] == self._number:  # an older one came too late
                        return answer
            except (OSError, ValueError) as error:
                raise ReaperSilent(
                    "the container's first process does not say which MPS daemons live: "
                    f"{error or 'it has ended'}"
                ) from error


def _roll(answer: Mapping[str, Any]) -> Roll:
    return Roll(answer["reaper"], answer["living"], answer["ended"])
