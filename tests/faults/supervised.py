"""A node whose slices NVIDIA's control program enforces, under the real supervisor as a process.

The driver is the stand-in of `tests.nodeagent.nvml`, and so is the server that the control program
starts. What the kernel does when the supervisor's container ends is done here: it ends all of it.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hack.cluster import mps
from hack.cluster.layout import ClusterDir
from hack.cluster.processes import ProcessSpec, Program
from mpslice.gpus import GpuUuid
from nodeagent.mps.paths import PROGRAM, MpsRoot
from nodeagent.mps.pipes import take_away
from nodeagent.mps.processes import daemons_at
from tests.nodeagent.mps.machine import build_stand_ins, children_of, is_running
from tests.nodeagent.nvml import driver

SUITE: Final = "trixie"
"""The Debian release whose control program is used."""


@dataclass(frozen=True, slots=True)
class Supervised:
    """`program` is the container's first process; `environment` has the node's driver."""

    program: Program
    environment: dict[str, str]
    root: MpsRoot
    gpus: tuple[GpuUuid, ...]

    @property
    def supervisor(self) -> int:
        """The process that the first one restarts when it ends, 0 while there is none."""
        if not self.program.running:
            return 0
        first = _command(self.program.pid)
        return next((pid for pid in children_of(self.program.pid) if _command(pid) == first), 0)

    def daemons(self) -> frozenset[int]:
        return frozenset(pid for gpu in self.gpus for pid in daemons_at(self.root.pipe(gpu)))

    def ended(self, daemons: frozenset[int]) -> frozenset[int]:
        """Those of the daemons that do not run any more."""
        return frozenset(pid for pid in daemons if not is_running(pid))

    def kill(self) -> None:
        """With everything that it has started, as a container ends."""
        if self.program.running:
            pids = [*_family(self.program.pid)]
            self.program.kill()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def supervised(
    cluster: ClusterDir, node: str, gpus: dict[str, int], executable: str
) -> Iterator[Supervised]:
    """The supervisor of a node with these gb by UUID; it does not run yet, and ends with the block.

    In a folder of its own that everybody may enter: MPS's server is another user's.
    """
    folder = Path(tempfile.mkdtemp(prefix="m-"))
    folder.chmod(0o755)
    programs = folder / "bin"
    programs.mkdir()
    shutil.copy(mps.control_program(SUITE), programs / PROGRAM)
    build_stand_ins(programs)
    nvml = driver.FakeDriver(folder / "nvml", driver.build(folder))
    for number, (uuid, gb) in enumerate(gpus.items()):
        nvml.gpu(uuid, memory=-(-gb * 10**9 // 2**20), minor=number)
    root = MpsRoot(folder / "r")
    environment = {
        **nvml.environment,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "STAND_IN": str(folder),
    }
    command = (executable, "mps", f"--mps-root={root.root}")
    spec = ProcessSpec(f"mpslice-mps-{node}", command, environment=environment)
    uuids = tuple(map(GpuUuid, gpus))
    here = Supervised(Program(cluster, spec), nvml.environment, root, uuids)
    try:
        yield here
    finally:
        here.kill()
        for uuid in uuids:
            take_away(root.pipe(uuid))
        shutil.rmtree(folder)


def _family(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in children_of(pid):
            yield child
            yield from _family(child)


def _command(pid: int) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
