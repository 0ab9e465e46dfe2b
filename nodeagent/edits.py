"""What a container in a slice finds: environment, mounts, device nodes and CDI devices.

Apart from the seams, because the first process of the MPS container reads the driver's files and
imports nothing heavy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the host in the container."""

    host: Path
    container: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node of the host and what it is called in a container."""

    host: Path
    container: str


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """What a container in a slice finds; `cdi_devices` are fully qualified CDI names."""

    environment: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    cdi_devices: tuple[str, ...] = ()
