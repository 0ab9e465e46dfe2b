"""A GPU driver as the chart's `driverRoot` names it, for pods on a node that has none.

Its control program is NVIDIA's own; NVML is the C library, and the server a stand-in. All lies in a
file system of its own: what pods mount with propagation has to be shared, and a machine's root
need not be.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster.programs import SIMULATED_GPUS
from mpslice.gpus import GpuUuid
from nodeagent.mps.paths import PROGRAM, SERVER_PROGRAM, MpsRoot
from nodeagent.mps.processes import daemons_at, servers_left
from tests.compiling import compile_c
from tests.nodeagent.mps.machine import CLIENT, build_stand_ins
from tests.nodeagent.nvml.driver import SONAME, FakeDriver
from tests.nodeagent.verify.test_verify import LIBCUDA
from tests.waiting import DEADLINE

LIBRARIES = Path("usr", "lib64")

MOUNT_POINT = Path("/run/mpslice-test")
"""Of the machine, as its one node is. Short, for the sockets below it, and passable for every user:
servers take on another, who may not enter root's home, where the cluster's own folder may lie."""


@dataclass(frozen=True, slots=True)
class DriverRoot:
    """The two GPUs that other releases only simulate."""

    folder: Path
    nvml: FakeDriver

    @property
    def root(self) -> Path:
        return self.folder / "driver"

    @property
    def mps(self) -> MpsRoot:
        return MpsRoot(self.folder / "mps")

    @property
    def client(self) -> Path:
        """Stands in for a CUDA program; any container can run it."""
        return self.folder / CLIENT

    @property
    def values(self) -> dict[str, Any]:
        """The chart's values for it."""
        told = [{"name": "FAKE_NVML", "value": str(self.nvml.file)}]
        return {
            "simulatedGPUs": [],
            "driverRoot": str(self.root),
            "nodeAgent": {"mpsRoot": str(self.mps.root), "extraEnv": told},
            "mps": {"extraEnv": [*told, {"name": "FAKE_CUDA", "value": "/tmp"}]},
        }

    @contextmanager
    def cuda(self) -> Iterator[None]:
        """CUDA, too, for programs in the project's own image."""
        library = self.root / LIBRARIES / "libcuda.so.1"
        compile_c(LIBCUDA, library, ["-fPIC", "-shared"])
        yield
        library.unlink()

    def daemon(self, gpu: GpuUuid) -> int | None:
        """The PID of the GPU's control daemon."""
        return next(iter(daemons_at(self.mps.pipe(gpu))), None)

    def servers(self, gpu: GpuUuid) -> tuple[int, ...]:
        """The PIDs of the GPU's MPS servers."""
        return servers_left(self.mps.pipe(gpu))


@contextmanager
def laid_out(control: Path, library: Path) -> Iterator[DriverRoot]:
    """A driver with this control program and NVML, on a node that is being used by nobody else."""
    with _shared_file_system(MOUNT_POINT) as folder:
        # Where both DaemonSets have it, and can write what becomes of the GPUs beside it.
        told = folder / "mps" / "nvml" / "driver"
        told.parent.mkdir(parents=True)
        driver = DriverRoot(folder, FakeDriver(told, library))
        for minor, gpu in enumerate(SIMULATED_GPUS):
            driver.nvml.gpu(
                gpu["uuid"],
                name=gpu["product"],
                memory=gpu["memoryMiB"],
                reserved=gpu["reservedMiB"],
                minor=minor,
            )
        programs, libraries = driver.root / "usr" / "bin", driver.root / LIBRARIES
        for path in (programs, libraries):
            path.mkdir(parents=True)
        shutil.copy(control, programs / PROGRAM)
        shutil.copy(library, libraries / SONAME)
        # The image's libc may be older than this machine's, and slice pods have none.
        build_stand_ins(folder, ["-static"])
        (folder / SERVER_PROGRAM).rename(programs / SERVER_PROGRAM)
        yield driver


@contextmanager
def _shared_file_system(at: Path) -> Iterator[Path]:
    """An empty one, in memory; what a killed run has left there goes first."""
    _unmount(at)
    at.mkdir(mode=0o755, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", "mode=0755", "mpslice-test", str(at))
    try:
        _run("mount", "--make-shared", str(at))
        yield at
    finally:
        _unmount(at)
        at.rmdir()


def _unmount(at: Path) -> None:
    while os.path.ismount(at):
        # Lazily: containers of a node that ends later may still look into it.
        _run("umount", "--lazy", "--recursive", str(at))


def _run(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=DEADLINE)
