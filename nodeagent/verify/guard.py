"""Starts the MPS supervisor for a proof, and puts everything back however the proof ends.

It lives in a session of its own, so that Ctrl-C does not reach it, and waits for the end of its
stdin, which comes when the proof's process ends, killed or not.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpslice.gpus import GpuUuid
from nodeagent.errors import NvmlError
from nodeagent.gpus.nvml import ComputeMode, Nvml
from nodeagent.linux.mounts import leave_host
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.pipes import take_away
from nodeagent.mps.records import remove_record

_HAND_BACK: Final = 40.0  # seconds
_END: Final = 45.0
_PAUSE: Final = 0.05


def main(folder: Path, gpu: GpuUuid, user: int, host_ipc: bool) -> None:
    """Prints the supervisor's PID, and ends once nothing of it is left."""
    root = MpsRoot(folder / "r")
    mode = _mode(gpu)
    if not host_ipc:
        leave_host()
    flags = [f"--mps-root={root.root}", f"--mps-user={user}", f"--host-ipc={host_ipc}".lower()]
    with (folder / "log").open("wb") as log:
        supervisor = subprocess.Popen(  # noqa: S603  this project's own program
            [sys.executable, "-m", "nodeagent.main", "mps", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor has them as usual
    sys.stdout.write(json.dumps({"supervisor": supervisor.pid}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    remove_record(root.wanted, gpu)
    _until(lambda: not (root.status / gpu).exists() or supervisor.poll() is not None, _HAND_BACK)
    supervisor.terminate()
    _until(lambda: supervisor.poll() is not None, _END)
    supervisor.kill()
    supervisor.wait()
    if mode is not None and _mode(gpu) is not mode:
        with Nvml() as nvml:
            nvml.set_compute_mode(gpu, mode)
    take_away(root.pipe(gpu))
    take_away(root.shared_memory)
    shutil.rmtree(folder, ignore_errors=True)


def _mode(gpu: GpuUuid) -> ComputeMode | None:
    with contextlib.suppress(NvmlError), Nvml() as nvml:
        return nvml.compute_mode(gpu)
    return None


def _until(done: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(_PAUSE)


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), GpuUuid(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "true")
