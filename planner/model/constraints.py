"""What a pod demands of its node and of the pods around it, and what it takes of a node.

The creator of a pod decides how long its lists are. Long keeps a long list quick to ask about many
nodes and pods.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

ANY_ADDRESS: Final = "0.0.0.0"

FEW: Final = 8
"""So many entries are looked at one by one sooner than something is made of them."""

T = TypeVar("T")
R = TypeVar("R")


class Long(tuple[T, ...]):
    """A tuple that is hashed once, and that keeps what is made of it by `derived`."""

    _hash: int
    _made: dict[object, Any]

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            self._hash = super().__hash__()
            return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what is kept: another process hashes text otherwise."""
        return type(self), (tuple(self),)

    def derived(self, make: Callable[[tuple[T, ...]], R]) -> R:
        """As the function of that name."""
        try:
            made = self._made
        except AttributeError:
            made = self._made = {}
        if make not in made:
            made[make] = make(self)
        found: R = made[make]
        return found


def derived(items: tuple[T, ...], make: Callable[[tuple[T, ...]], R]) -> R:
    """What a pure function makes of the items; made once if they are many."""
    return items.derived(make) if isinstance(items, Long) else make(items)


def kept(items: tuple[T, ...]) -> tuple[T, ...]:
    """The items, Long if they are many."""
    return items if len(items) <= FEW or isinstance(items, Long) else Long(items)


def _distinct(items: tuple[T, ...]) -> tuple[T, ...]:
    """Many items without repetition; for what means the same however often it is said."""
    if len(items) <= FEW or isinstance(items, Long):
        return items
    return kept(tuple(dict.fromkeys(items)))


def _set(record: object, name: str, value: object) -> None:
    """This is how a frozen dataclass derives."""
    object.__setattr__(record, name, value)


NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"
"""The label that the API server puts on every namespace (pkg/apis/core/v1/defaults.go)."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One requirement of a node selector term; `operator` as Kubernetes writes it."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _set(self, "values", kept(self.values))


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """All requirements of one nodeSelectorTerm; without any it matches nothing."""

    labels: tuple[Expression, ...] = ()
    fields: tuple[Expression, ...] = ()

    def __post_init__(self) -> None:
        _set(self, "labels", _distinct(self.labels))
        _set(self, "fields", _distinct(self.fields))


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

    def __post_init__(self) -> None:
        _set(self, "node_selector", kept(self.node_selector))
        _set(self, "tolerations", _distinct(self.tolerations))
        if self.affinity is not None:
            _set(self, "affinity", _distinct(self.affinity))


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

    def __post_init__(self) -> None:
        if self.selector is not None:
            _set(self, "selector", _distinct(self.selector))
        if self.namespace_selector is not None:
            _set(self, "namespace_selector", _distinct(self.namespace_selector))


@dataclass(frozen=True, slots=True)
class Spread:
    """A topology spread constraint that must hold (DoNotSchedule), with Kubernetes' defaults."""

    topology_key: str
    selector: Selector
    max_skew: int = 1
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False

    def __post_init__(self) -> None:
        if self.selector is not None:
            _set(self, "selector", _distinct(self.selector))


@dataclass(frozen=True, slots=True)
class Relations:
    """What a pod demands of the pods around it; only what must hold, no preferences."""

    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    spread: tuple[Spread, ...] = ()

    def __post_init__(self) -> None:
        _set(self, "affinity", kept(self.affinity))
        _set(self, "anti_affinity", kept(self.anti_affinity))
        _set(self, "spread", kept(self.spread))


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
