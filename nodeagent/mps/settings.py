"""What the supervisor was told at its start, checked once."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mpslice.gpus import GpuUuid
from nodeagent.driver.files import Driver
from nodeagent.mps.decision import Policy
from nodeagent.mps.errors import BadMpsSettings, ControlProgramMissing
from nodeagent.mps.paths import LONGEST_SOCKET, PROGRAM, SERVER_PROGRAM, UUID_LENGTH, MpsRoot
from nodeagent.settings import check_socket_path


class ComputeMode(StrEnum):
    """Whether a GPU is put into EXCLUSIVE_PROCESS while it is held, or its mode left alone."""

    EXCLUSIVE = "exclusive"
    KEEP = "keep"


class OnFault(StrEnum):
    """Whether the clients of a server in FAULT are ended, or only told of."""

    RECOVER = "recover"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class MpsSettings:
    """The flags of `mpslice-nodeagent mps`; `shm_size_mib` None is half of the memory."""

    root: MpsRoot
    user: int = 1000
    host_ipc: bool = True
    compute_mode: ComputeMode = ComputeMode.EXCLUSIVE
    on_fault: OnFault = OnFault.RECOVER
    shm_size_mib: int | None = None
    driver: Driver = field(default_factory=Driver)

    @property
    def policy(self) -> Policy:
        return Policy(
            self.user,
            exclusive=self.compute_mode is ComputeMode.EXCLUSIVE,
            recover=self.on_fault is OnFault.RECOVER,
        )

    def environment(self) -> dict[str, str]:
        """Our own, with the driver's files where they are mounted: daemons and servers get it.

        Blocks; raises OSError where links to them cannot be made.
        """
        return self.driver.environment(os.environ, self.root.driver)

    def check(self) -> None:
        """Raises BadMpsSettings or ControlProgramMissing for what cannot work on this machine."""
        if os.geteuid() != 0:
            raise BadMpsSettings(
                f"must run as root and runs as uid {os.geteuid()}: MPS servers take on the uid "
                f"{self.user}, and compute modes are root's to set"
            )
        pipe = self.root.pipe(GpuUuid("x" * UUID_LENGTH))
        check_socket_path("--mps-root", pipe / LONGEST_SOCKET)

    def control_program(self, environment: Mapping[str, str]) -> str:
        """Where the control program is; raises ControlProgramMissing."""
        path = environment.get("PATH", os.defpath)
        control, server = (shutil.which(name, path=path) for name in (PROGRAM, SERVER_PROGRAM))
        if control is None or server is None:
            missing = SERVER_PROGRAM if control else PROGRAM
            raise ControlProgramMissing(
                f"{missing} is not to be found; it comes with the driver: set the chart's "
                "runtimeClassName or driverRoot, or put its directory on PATH"
            )
        return control
