"""What a pod demands of its node and of the pods around it, and what it takes of a node."""

from dataclasses import dataclass
from typing import Final

ANY_ADDRESS: Final = "0.0.0.0"


NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
"""The label that the API server puts on every namespace (pkg/apis/core/v1/defaults.go)."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One requirement of a node selector term; `operator` as Kubernetes writes it."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """All requirements of one nodeSelectorTerm; without any it matches nothing."""

    labels: tuple[Expression, ...] = ()
    fields: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration; an empty key or effect stands for every one."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a pod demands of a node's identity; hashable, so that its answer is memoised.

    With `gb` it asks for mpslice.io/gb. How much follows from its slices, so a node that offers any
    has enough where the slices fit (nodeagent/cluster/report.py, offered_gb).
    """

    node_selector: tuple[tuple[str, str], ...] = ()
    affinity: tuple[NodeTerm, ...] | None = None  # None: no required node affinity at all
    tolerations: tuple[Toleration, ...] = ()
    gb: bool = False


Selector = tuple[Expression, ...] | None
"""All requirements of a label selector: () selects everything, None nothing at all."""


@dataclass(frozen=True, slots=True)
class PodTerm:
    """A required term of inter-pod affinity or anti-affinity.

    It means the pods that `selector` picks in the `namespaces` and in those whose labels
    `namespace_selector` picks.
    """

    topology_key: str
    selector: Selector
    namespaces: frozenset[str] = frozenset()
    namespace_selector: Selector = None


@dataclass(frozen=True, slots=True)
class Spread:
    """A topology spread constraint that must hold (DoNotSchedule), with Kubernetes' defaults."""

    topology_key: str
    selector: Selector
    max_skew: int = 1
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False


@dataclass(frozen=True, slots=True)
class Relations:
    """What a pod demands of the pods around it; only what must hold, no preferences."""

    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    spread: tuple[Spread, ...] = ()


NO_RELATIONS: Final = Relations()
"""What nearly every pod has, so that `is` tells it from the others at no cost."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port that the pod takes on the node itself."""

    port: int
    protocol: str = "TCP"
    ip: str = ANY_ADDRESS


@dataclass(frozen=True, slots=True)
class Resources:
    """CPU in thousandths, memory and ephemeral storage in bytes, the rest by name."""

    cpu_milli: int = 0
    memory: int = 0
    ephemeral: int = 0
    extended: tuple[tuple[str, int], ...] = ()
