"""A request that agent and supervisor let go of the driver for a while, as a GPU's reset needs.

The driver resets no GPU that a process has open, and NVML keeps GPUs open for as long as it is
initialised (nvidia-smi(1), "--gpu-reset"; NVML API reference, nvmlShutdown). The request is a file
under --mps-root, which both see, and it passes by itself.
"""

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nodeagent.errors import DriverClosed

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Closing:
    """The request, as a file that holds the second since boot at which it passes."""

    file: Path

    def ask(self, seconds: float) -> None:
        """From now on, and for so long. Blocks; raises OSError."""
        fresh = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        fresh.write_text(f"{_now() + seconds:.0f}\n")
        fresh.replace(self.file)

    def end(self) -> None:
        """The driver may be used again. Blocks."""
        self.file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises DriverClosed while the driver is to be left alone. Blocks."""
        try:
            left = float(self.file.read_text()) - _now()
        except (OSError, ValueError):
            return
        if left > 0:
            until = datetime.now(UTC) + timedelta(seconds=left)
            raise DriverClosed(
                f"the driver is left alone on request until {until:%H:%M} UTC; "
                "mpslice-nodeagent close-driver --end ends that"
            )


def processes_with(devices: Path = Path("/dev"), proc: Path = _PROC) -> dict[int, str]:
    """The processes of this machine that have a GPU open, by PID, with their names. Blocks."""
    names = (path for path in devices.glob("nvidia*") if path.name[len("nvidia") :].isdigit())
    nodes = {path.stat().st_rdev for path in names}
    found: dict[int, str] = {}
    for process in proc.iterdir():
        if process.name.isdigit() and any(device in nodes for device in _open_devices(process)):
            found[int(process.name)] = _name(process)
    return found


def _open_devices(process: Path) -> list[int]:
    devices = []
    try:
        for handle in (process / "fd").iterdir():
            try:
                devices.append(handle.stat().st_rdev)
            except OSError:
                continue
    except OSError:
        return []  # it has ended, or is another user's
    return devices


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def _now() -> float:
    """Seconds since boot: the same in every container of the machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
