"""Every path under --mps-root, so that no other module joins them.

Short, because a socket's path ends at 107 bytes and the control program adds names of its own.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpslice.gpus import GpuUuid

PROGRAM: Final = "nvidia-cuda-mps-control"
SERVER_PROGRAM: Final = "nvidia-cuda-mps-server"
"""The driver's programs; the first starts the second, by PATH."""

UUID_LENGTH: Final = 40
"""Characters of NVML's UUIDs: `GPU-` and 36."""

LONGEST_SOCKET: Final = "control_privileged"
"""The longest name of a socket in a pipe directory."""


@dataclass(frozen=True, slots=True)
class MpsRoot:
    """The directory that agent, supervisor and, in parts, containers share."""

    root: Path

    def gpus(self) -> tuple[GpuUuid, ...]:
        """The GPUs that have directories here. Blocks.

        Looks at no directory that a container can write, such as the private /dev/shm.
        """
        others = {path.name for path in (self.wanted, self.status, self.driver, self.shared_memory)}
        try:
            with os.scandir(self.root) as entries:
                names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return ()
        return tuple(GpuUuid(name) for name in sorted(set(names) - others))

    def pipe(self, gpu: GpuUuid) -> Path:
        """Where the daemon of a GPU listens; containers mount it."""
        return self.root / gpu / "pipe"

    def sealed(self, gpu: GpuUuid) -> Path:
        """Holds a second name of the daemon's socket and nothing else; containers may mount it."""
        return self.pipe(gpu) / "sealed"

    def log(self, gpu: GpuUuid) -> Path:
        """Where the daemon of a GPU and its servers log."""
        return self.root / gpu / "log"

    def output(self, gpu: GpuUuid) -> Path:
        """What the daemon of a GPU and its servers print, under NVIDIA's name for that log."""
        return self.log(gpu) / "control.log"

    def exclusive(self, gpu: GpuUuid) -> Path:
        """Stands while the GPU's compute mode is ours to set back."""
        return self.root / gpu / "exclusive"

    @property
    def wanted(self) -> Path:
        """The agent's files, one for each GPU that it wants a daemon for."""
        return self.root / "wanted"

    @property
    def status(self) -> Path:
        """The supervisor's files, one for each GPU that it holds."""
        return self.root / "status"

    @property
    def shared_memory(self) -> Path:
        """What --host-ipc=false mounts as /dev/shm, shared with the MPS servers."""
        return self.root / "shm"

    @property
    def driver(self) -> Path:
        """Links to the driver's files where they are mounted; for daemons and servers."""
        return self.root / "driver"

    @property
    def closed(self) -> Path:
        """Stands while agent and supervisor are to leave the driver alone."""
        return self.root / "driver-closed"

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.root / "supervisor.lock"
