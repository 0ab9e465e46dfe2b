"""The agent's errors. Each message is one sentence that names the bad thing and the remedy."""

from typing import ClassVar

from mpslice.errors import MpsliceError
from mpslice.nodelayout import KUBELET_UNAVAILABLE


class AgentError(MpsliceError):
    """Base of every error of the agent; `condition` is the CamelCase word for a status."""

    condition: ClassVar[str] = "AgentFailed"


class BadSimulation(AgentError):
    """The file of simulated GPUs cannot be used; names the file and the field."""

    condition = "BadSimulation"


class BadSettings(AgentError):
    """The agent cannot start with these flags on this machine."""

    condition = "BadSettings"


class UnknownNode(AgentError):
    """The cluster has no node of the name that the agent was given."""


class KubeletUnavailable(AgentError):
    """The kubelet did not answer on one of its sockets in time; it passes when it is back."""

    condition = KUBELET_UNAVAILABLE


class DirectoryVanished(AgentError):
    """A directory that the agent watches is gone; only a new start can find the new one."""

    condition = "DirectoryVanished"


class UnknownSlice(AgentError):
    """A device id that stands on no GPU here: never carved, or withdrawn."""


class IllegalStep(AgentError):
    """A slice cannot go from its phase to the one that was asked for; a defect of the agent."""


class CdiUnwritable(AgentError):
    """The specification of a slice cannot be put where the container runtime looks for it."""

    condition = "CdiUnwritable"


class NvmlError(AgentError):
    """NVML did not do what it was asked."""

    condition = "NvmlFailed"


class NvmlMissing(NvmlError):
    """There is no libnvidia-ml.so.1 to load."""

    condition = "NvmlMissing"


class DriverNotLoaded(NvmlError):
    """NVML is there and the kernel's driver is not, or it is of another version."""

    condition = "DriverNotLoaded"


class DriverReplaced(DriverNotLoaded):
    """The kernel's driver is of another version than the library that this process has loaded."""


class DriverClosed(NvmlError):
    """The driver is left alone, because somebody asked for it."""

    condition = "DriverClosed"


class DriverTooOld(NvmlError):
    """This driver's NVML lacks a function that is needed."""

    condition = "DriverTooOld"


class DriverHangs(NvmlError):
    """The driver did not answer in time."""

    condition = "DriverHangs"


class NvmlNotPermitted(NvmlError):
    """The driver refuses this to the user that the agent runs as."""

    condition = "NotPermitted"


class GpuLost(NvmlError):
    """The GPU has fallen off the bus, or is no GPU of this machine."""

    condition = "Lost"


class GpuNeedsReset(NvmlError):
    """The GPU does nothing more until it is reset."""

    condition = "ResetRequired"


class NotSupported(NvmlError):
    """This GPU or driver has no such thing."""

    condition = "NotSupported"


class NvmlTimeout(NvmlError):
    """What was waited for has not happened."""


class NoGpus(NvmlError):
    """The driver is there and shows no GPU that answers."""

    condition = "NoGpus"
