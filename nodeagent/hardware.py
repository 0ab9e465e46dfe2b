"""The two seams to the hardware, `Gpus` and `MpsControl`, and what crosses them.

Everything else in the agent sees a GPU as the frozen record below, whoever it came from.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

from mpslice.gpus import GpuUuid

if TYPE_CHECKING:
    from nodeagent.pulse import Pulse


class ComputeCapability(NamedTuple):
    """CUDA's generation of a GPU; they compare as they follow each other."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


VOLTA = ComputeCapability(7, 0)
"""The first whose MPS limits memory and keeps clients apart (docs.nvidia.com/deploy/mps)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a GPU is left alone: one CamelCase word, and half a sentence that follows its name."""

    reason: str
    why: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of the node; memory in MiB, `index` as the driver counts them.

    `minor` is that of /dev/nvidia<minor>; it and `numa_node` are None where there is none. `reason`
    says in one CamelCase word why it does not work, None when it does, and `detail` more about it.
    One with a `refusal` is left alone: its slices stand for those who have them, and no others.
    """

    uuid: GpuUuid
    index: int
    product: str
    memory_mib: int
    reserved_mib: int
    compute_capability: ComputeCapability
    minor: int | None = None
    numa_node: int | None = None
    mig: bool = False
    reason: str | None = None
    detail: str = ""
    refusal: Refusal | None = None

    @property
    def works(self) -> bool:
        """Whether the slices that stand there are offered."""
        return self.reason is None

    @property
    def objection(self) -> str | None:
        """The word for why nothing new goes there."""
        return self.refusal.reason if self.refusal else self.reason

    @property
    def healthy(self) -> bool:
        return self.objection is None


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses a GPU, directly or through MPS; `pid` as this machine counts them.

    `pod_uid` is the pod that its cgroup names, "" for none.
    """

    pid: int
    pod_uid: str = ""
    memory_mib: int = 0


GpusChanged = Callable[[Sequence[Gpu]], None]


class Gpus(Protocol):
    """The GPUs of this node."""

    def read(self) -> Sequence[Gpu]:
        """All GPUs as known now, by index; a lost one stays, with its reason. Does not block."""
        ...

    async def follow(self, on_change: GpusChanged) -> NoReturn:
        """Calls `on_change` with all of them whenever one changes, until cancelled."""
        ...

    @property
    def tells_memory(self) -> bool:
        """Whether `processes` knows how much memory each uses."""
        ...

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        """The processes that use the GPU now; raises an NvmlError when nobody can tell."""
        ...


@dataclass(frozen=True, slots=True)
class Backstop:
    """What is asked of the MPS daemon of a GPU that is held.

    `limit_mib` is what it grants a client that sets itself no lower limit: the largest slice
    there. `used` says whether any slice there is held.
    """

    limit_mib: int
    used: bool = False


@dataclass(frozen=True, slots=True)
class MpsHealth:
    """How the MPS daemon of a GPU that is held fares.

    `reason` says in one CamelCase word why it does not serve, and `detail` more about it; a daemon
    that is neither `ready` nor has a reason is starting. `restarts` counts since the GPU is held.
    """

    ready: bool = True
    reason: str | None = None
    detail: str = ""
    restarts: int = 0


class MpsControl(Protocol):
    """The MPS daemons of this node, one for each GPU that is held."""

    @property
    def changed(self) -> "Pulse":
        """Beats when anything that is asked for below may be different."""
        ...

    def health(self) -> Mapping[GpuUuid, MpsHealth]:
        """Every GPU that is held or not yet handed back. Does not block."""
        ...

    @property
    def held(self) -> Mapping[GpuUuid, Backstop]:
        """What was asked for last, by this agent or the one before it."""
        ...

    async def hold(self, backstops: Mapping[GpuUuid, Backstop]) -> None:
        """From now on these GPUs are held and no others. Returns when that is on its way.

        Raises AgentError when it cannot be for now.
        """
        ...

    async def lagging(self, gpus: Collection[GpuUuid], seconds: float) -> frozenset[GpuUuid]:
        """Those whose daemons do not grant their backstops yet, so long after they were asked to.

        Returns as soon as there are none.
        """
        ...

    async def wait_ready(self, gpu: GpuUuid) -> None:
        """Returns once the GPU's daemon serves with its limits read back; the caller's deadline.

        Raises AgentError for what does not pass.
        """
        ...

    async def follow(self) -> NoReturn:
        """Keeps all this true, until cancelled."""
        ...


class ComputeModes(Protocol):
    """The compute modes of this node's GPUs. Every call raises AgentError when the driver fails."""

    async def is_exclusive(self, gpu: GpuUuid) -> bool | None:
        """Whether only one process may use it; None when the driver knows no such GPU."""
        ...

    async def set_exclusive(self, gpu: GpuUuid, *, exclusive: bool) -> None:
        """EXCLUSIVE_PROCESS, or else DEFAULT."""
        ...
