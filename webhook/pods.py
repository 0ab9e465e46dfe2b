"""A pod as the rules see it: read once from JSON into frozen records, never raising.

Whatever is of the wrong type counts as absent: the API server refuses such a pod by itself, and
says so better.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from mpslice.errors import InvalidQuantity
from mpslice.quantities import milli
from mpslice.slices import (
    MIG_PREFIX,
    WHOLE_GPU,
    SliceSize,
    looks_like_slice,
    parse_resource,
)
from webhook.verdicts import Place, shorten

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})

MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""On the API's copy of a static pod, which the kubelet runs whatever we answer."""

_SHARED_GPU: Final = "nvidia.com/gpu.shared"  # NVIDIA's plugin's name for a time-sliced whole GPU


class ContainerKind(StrEnum):
    """The three lists of a pod's spec, by their field."""

    INIT = "initContainers"
    APP = "containers"
    EPHEMERAL = "ephemeralContainers"


_FIELDS: Final = tuple((kind.value, kind) for kind in ContainerKind)


_EPHEMERAL: Final = ContainerKind.EPHEMERAL


@dataclass(frozen=True, slots=True)
class Ask:
    """One slice-like resource in a container's requests and limits.

    `field` is where it stands (limits first), `size` None when the name is no slice's, `count`
    None when it is no whole number, `written` the count as the user wrote it.
    """

    name: str
    field: str
    written: str
    size: SliceSize | None
    count: int | None

    def __str__(self) -> str:
        return f"{shorten(self.name)}: {self.written}"


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume mount: its index in the container's list, and the path in the container."""

    index: int
    path: str


@dataclass(frozen=True, slots=True)
class Container:
    """What the rules need of one container.

    `slices` are those of `asks` that it really requests, `security` is its securityContext. What
    only one rule looks at is read from `raw` when that rule comes to it; `stripped` are the indexes
    of mounts that are taken away.
    """

    kind: ContainerKind
    place: Place
    raw: Mapping[str, Any]
    asks: tuple[Ask, ...]
    slices: tuple[Ask, ...]
    security: Mapping[str, Any]
    stripped: frozenset[int] = frozenset()

    @property
    def ends(self) -> bool:
        """Whether it is an init container that is no sidecar."""
        return self.kind is ContainerKind.INIT and self.raw.get("restartPolicy") != "Always"

    @property
    def whole_gpus(self) -> tuple[str, ...]:
        """What it requests of whole GPUs, MIG devices and time-sliced GPUs, by name."""
        limits, requests = _resources(self.raw)
        return tuple(
            name
            for name in _names(limits, requests)
            if (name in (WHOLE_GPU, _SHARED_GPU) or name.startswith(MIG_PREFIX))
            and whole_count(_value(name, limits, requests)[1]) != 0
        )

    @property
    def environment(self) -> Iterator[str]:
        """The names that it sets, each at its index; "" for an entry without one."""
        return (text(mapping(entry).get("name")) for entry in sequence(self.raw.get("env")))

    @property
    def mounts(self) -> Iterator[Mount]:
        """The volume mounts that stay."""
        for index, mount in enumerate(sequence(self.raw.get("volumeMounts"))):
            path = mapping(mount).get("mountPath")
            if isinstance(path, str) and index not in self.stripped:
                yield Mount(index, path)


@dataclass(frozen=True, slots=True)
class Pod:
    """What the rules need of a pod.

    `containers` are those that mention a slice and the ephemeral ones, in the order of the rules;
    `slice_containers` are those of them that request one.
    """

    prefix: str
    spec: Mapping[str, Any]
    security: Mapping[str, Any]
    containers: tuple[Container, ...]
    slice_containers: tuple[Container, ...]
    host_ipc: bool
    mirror: bool

    @property
    def host_users(self) -> bool:
        """Whether it runs in the host's user namespace."""
        return self.spec.get("hostUsers") is not False

    @property
    def bound(self) -> bool:
        """Whether it has a node already."""
        return bool(self.spec.get("nodeName"))

    @property
    def mentions_slices(self) -> bool:
        """Whether anything in it is, or looks like, a request for a slice."""
        return any(container.asks for container in self.containers)

    def joins_slices(self, container: Container) -> bool:
        """Whether it debugs a slice pod; it asks for nothing itself, and sees what the pod sees."""
        return container.kind is _EPHEMERAL and bool(self.slice_containers)

    def has_gate(self, name: str) -> bool:
        """Whether this scheduling gate is on it."""
        gates = sequence(self.spec.get("schedulingGates"))
        return any(mapping(gate).get("name") == name for gate in gates)

    def user_of(self, container: Container) -> object:
        """The runAsUser in effect: the container's own, else the pod's, else None."""
        own = container.security.get("runAsUser")
        return self.security.get("runAsUser") if own is None else own

    def non_root_of(self, container: Container) -> object:
        """The runAsNonRoot in effect, likewise."""
        own = container.security.get("runAsNonRoot")
        return self.security.get("runAsNonRoot") if own is None else own


def read_pod(pod: object, prefix: str = "") -> Pod:
    """Reads a pod, or a pod template whose path is `prefix` (`spec.template.`)."""
    obj = mapping(pod)
    spec = mapping(obj.get("spec"))
    annotations = mapping(mapping(obj.get("metadata")).get("annotations"))
    containers = tuple(_containers(spec, prefix))
    return Pod(
        prefix=prefix,
        spec=spec,
        security=mapping(spec.get("securityContext")),
        containers=containers,
        slice_containers=tuple([container for container in containers if container.slices]),
        host_ipc=spec.get("hostIPC") is True,
        mirror=MIRROR_ANNOTATION in annotations,
    )


def _containers(spec: Mapping[str, Any], prefix: str) -> Iterator[Container]:
    """Most containers mention no slice: nothing more of them is ever looked at."""
    for field, kind in _FIELDS:
        for index, raw in enumerate(sequence(spec.get(field))):
            if kind is _EPHEMERAL:  # cannot ask for resources (validateEphemeralContainers)
                yield _container(kind, prefix, index, mapping(raw), ())
            elif isinstance(raw, dict) and (asks := tuple(_asks(*_resources(raw)))):
                yield _container(kind, prefix, index, raw, asks)


def _container(
    kind: ContainerKind, prefix: str, index: int, raw: Mapping[str, Any], asks: tuple[Ask, ...]
) -> Container:
    return Container(
        kind,
        _place(text(raw.get("name")), f"{prefix}spec.{kind.value}[{index}]"),
        raw,
        asks,
        tuple([ask for ask in asks if ask.size is not None and ask.count]),
        mapping(raw.get("securityContext")),
    )


def _resources(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Limits and requests."""
    resources = mapping(raw.get("resources"))
    return mapping(resources.get("limits")), mapping(resources.get("requests"))


def _asks(limits: Mapping[str, Any], requests: Mapping[str, Any]) -> Iterator[Ask]:
    for name in _names(limits, requests):
        if _looks_like_slice(name):
            field, value = _value(name, limits, requests)
            read = _usual_ask if isinstance(value, str) else _ask
            ask = read(name, field, value)
            if ask.count != 0:
                yield ask


def _ask(name: str, field: str, value: object) -> Ask:
    return Ask(name, f"resources.{field}", show(value), parse_resource(name), whole_count(value))


def _names(limits: Mapping[str, Any], requests: Mapping[str, Any]) -> Iterable[str]:
    if not requests or limits.keys() == requests.keys():
        return limits
    return {**limits, **requests}


def _value(name: str, limits: Mapping[str, Any], requests: Mapping[str, Any]) -> tuple[str, object]:
    return ("limits", limits[name]) if name in limits else ("requests", requests[name])


def whole_count(value: object) -> int | None:
    """How many a quantity asks for; None when that is no whole number, or a negative one.

    Rounded up to thousandths first, as the API server does with every resource list
    (pkg/apis/core/v1/defaults.go, SetDefaults_ResourceList).
    """
    if not isinstance(value, str | int | float):  # bool is an int, and refused by milli
        return None
    try:
        count, rest = divmod(milli(value), 1000)
    except InvalidQuantity:
        return None
    return None if rest or count < 0 else count


def show(value: object) -> str:
    """A value of any JSON type as a message shows it."""
    if isinstance(value, str):
        return shorten(value) if value else '""'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return shorten(repr(value))
    return "a list" if isinstance(value, list) else "an object"


# A cluster's pods use few names and amounts: looking up is cheaper than reading again.
_looks_like_slice = lru_cache(maxsize=1024)(looks_like_slice)
_usual_ask = lru_cache(maxsize=1024)(_ask)
_place = lru_cache(maxsize=1024)(Place)


def mapping(value: object) -> Mapping[str, Any]:
    """The object itself, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else EMPTY


def sequence(value: object) -> Sequence[Any]:
    """The list itself, or an empty one in place of anything else."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """The string itself, or "" in place of anything else."""
    return value if isinstance(value, str) else ""
