"""The agent's errors. Each message is one sentence that names the bad thing and the remedy."""

from mpslice.errors import MpsliceError


class AgentError(MpsliceError):
    """Base of every error of the agent."""


class BadSimulation(AgentError):
    """The file of simulated GPUs cannot be used; names the file and the field."""


class BadSettings(AgentError):
    """The agent cannot start with these flags on this machine."""


class UnknownNode(AgentError):
    """The cluster has no node of the name that the agent was given."""


class NoGpuSupport(AgentError):
    """There is no way to reach GPUs with these flags."""


class KubeletUnavailable(AgentError):
    """The kubelet did not answer on one of its sockets in time; it passes when it is back."""


class DirectoryVanished(AgentError):
    """A directory that the agent watches is gone; only a new start can find the new one."""


class UnknownSlice(AgentError):
    """A device id that stands on no GPU here: never carved, or withdrawn."""
