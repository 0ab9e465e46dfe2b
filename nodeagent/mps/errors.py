"""What goes wrong with MPS. Each message is one sentence for a NodeLayout, an Event or a log."""

from mpslice.gpus import GpuUuid
from nodeagent.errors import AgentError


class MpsError(AgentError):
    """Base of every error of the MPS daemons and of what keeps them."""


class BadMpsSettings(MpsError):
    """Agent or supervisor cannot start with these flags on this machine."""

    condition = "BadSettings"


class ControlProgramMissing(MpsError):
    """The driver's `nvidia-cuda-mps-control` is not to be found."""


class MpsRootUnwritable(MpsError):
    """What is wanted of the daemons cannot be written; it passes when it can."""

    condition = "MpsRootUnwritable"


class NoDaemon(MpsError):
    """No control daemon listens in the pipe directory."""


class ControlHung(MpsError):
    """The control daemon did not answer in time: it, or a server that it waits for, hangs."""


class DaemonDidNotStart(MpsError):
    """A control daemon could not be started, or ended before it answered."""


class ReaperSilent(MpsError):
    """The container's first process does not say which daemons live; nothing is done without."""


class Refused(MpsError):
    """A setting reads back as another one, though the control program reported success."""


class SelinuxRefuses(MpsError):
    """What containers are to open cannot be given SELinux's label for it."""


class ComputeModeNotSet(MpsError):
    """The driver did not set a GPU's compute mode."""


class UnreadableRecord(MpsError):
    """A file between agent and supervisor that cannot be read."""

    def __init__(self, message: str, gpu: GpuUuid | None = None) -> None:
        super().__init__(message)
        self.gpu = gpu
