"""A pod as the rules see it: read once from JSON into frozen records, never raising.

Whatever is of the wrong type counts as absent: the API server refuses such a pod by itself, and
says so better.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
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
    """What the rules need of one container; None is what it does not say itself."""

    kind: ContainerKind
    place: Place
    raw: Mapping[str, Any]
    asks: tuple[Ask, ...] = ()
    whole_gpus: tuple[str, ...] = ()
    run_as_user: object = None
    run_as_non_root: object = None
    privileged: bool = False
    restarts: bool = False
    environment: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()

    @property
    def slices(self) -> tuple[Ask, ...]:
        """The slices that it really requests."""
        return tuple(ask for ask in self.asks if ask.size is not None and ask.count)

    @property
    def ends(self) -> bool:
        """Whether it is an init container that is no sidecar."""
        return self.kind is ContainerKind.INIT and not self.restarts


@dataclass(frozen=True, slots=True)
class Pod:
    """What the rules need of a pod; `containers` in the order of the rules, init first."""

    prefix: str
    containers: tuple[Container, ...] = ()
    host_ipc: bool = False
    host_users: bool = True
    bound: bool = False
    gates: tuple[str, ...] = ()
    run_as_user: object = None
    run_as_non_root: object = None
    mirror: bool = False

    @property
    def slice_containers(self) -> Iterator[Container]:
        return (container for container in self.containers if container.slices)

    @property
    def is_slice_pod(self) -> bool:
        return any(self.slice_containers)

    @property
    def mentions_slices(self) -> bool:
        """Whether anything in it is, or looks like, a request for a slice."""
        return any(container.asks for container in self.containers)

    def joins_slices(self, container: Container) -> bool:
        """Whether it debugs a slice pod; it asks for nothing itself, and sees what the pod sees."""
        return container.kind is ContainerKind.EPHEMERAL and self.is_slice_pod

    def user_of(self, container: Container) -> object:
        """The runAsUser in effect: the container's own, else the pod's, else None."""
        return self.run_as_user if container.run_as_user is None else container.run_as_user

    def non_root_of(self, container: Container) -> object:
        """The runAsNonRoot in effect, likewise."""
        own = container.run_as_non_root
        return self.run_as_non_root if own is None else own


def read_pod(pod: object, prefix: str = "") -> Pod:
    """Reads a pod, or a pod template whose path is `prefix` (`spec.template.`)."""
    obj = mapping(pod)
    spec = mapping(obj.get("spec"))
    security = mapping(spec.get("securityContext"))
    annotations = mapping(mapping(obj.get("metadata")).get("annotations"))
    gates = (mapping(gate).get("name") for gate in sequence(spec.get("schedulingGates")))
    return Pod(
        prefix=prefix,
        containers=tuple(_containers(spec, prefix)),
        host_ipc=spec.get("hostIPC") is True,
        host_users=spec.get("hostUsers") is not False,
        bound=bool(spec.get("nodeName")),
        gates=tuple(gate for gate in gates if isinstance(gate, str)),
        run_as_user=security.get("runAsUser"),
        run_as_non_root=security.get("runAsNonRoot"),
        mirror=MIRROR_ANNOTATION in annotations,
    )


def _containers(spec: Mapping[str, Any], prefix: str) -> Iterator[Container]:
    for kind in ContainerKind:
        for index, raw in enumerate(sequence(spec.get(kind.value))):
            yield _container(kind, f"{prefix}spec.{kind.value}[{index}]", mapping(raw))


def _container(kind: ContainerKind, path: str, raw: Mapping[str, Any]) -> Container:
    place = Place(text(raw.get("name")), path)
    security = mapping(raw.get("securityContext"))
    privileged = security.get("privileged") is True
    resources = mapping(raw.get("resources"))
    limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
    if (
        kind is ContainerKind.EPHEMERAL
    ):  # which cannot ask for resources (validateEphemeralContainers)
        return Container(kind, place, raw, privileged=privileged, environment=_environment(raw))
    asks = tuple(_asks(limits, requests))
    if not asks:  # most containers of most pods: nothing more of them is ever looked at
        return Container(kind, place, raw, privileged=privileged)
    return Container(
        kind=kind,
        place=place,
        raw=raw,
        asks=asks,
        whole_gpus=tuple(_whole_gpus(limits, requests)),
        run_as_user=security.get("runAsUser"),
        run_as_non_root=security.get("runAsNonRoot"),
        privileged=privileged,
        restarts=raw.get("restartPolicy") == "Always",
        environment=_environment(raw),
        mounts=tuple(_mounts(sequence(raw.get("volumeMounts")))),
    )


def _environment(raw: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(text(mapping(entry).get("name")) for entry in sequence(raw.get("env")))


def _asks(limits: Mapping[str, Any], requests: Mapping[str, Any]) -> Iterator[Ask]:
    for name in _names(limits, requests):
        if looks_like_slice(name):
            field, value = _value(name, limits, requests)
            count = whole_count(value)
            if count != 0:
                yield Ask(name, f"resources.{field}", show(value), parse_resource(name), count)


def _whole_gpus(limits: Mapping[str, Any], requests: Mapping[str, Any]) -> Iterator[str]:
    for name in _names(limits, requests):
        whole = name in (WHOLE_GPU, _SHARED_GPU) or name.startswith(MIG_PREFIX)
        if whole and whole_count(_value(name, limits, requests)[1]) != 0:
            yield name


def _names(limits: Mapping[str, Any], requests: Mapping[str, Any]) -> Iterable[str]:
    if not requests or limits.keys() == requests.keys():
        return limits
    return {**limits, **requests}


def _value(name: str, limits: Mapping[str, Any], requests: Mapping[str, Any]) -> tuple[str, object]:
    return ("limits", limits[name]) if name in limits else ("requests", requests[name])


def _mounts(raw: Sequence[Any]) -> Iterator[Mount]:
    for index, mount in enumerate(raw):
        path = mapping(mount).get("mountPath")
        if isinstance(path, str):
            yield Mount(index, path)


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


def mapping(value: object) -> Mapping[str, Any]:
    """The object itself, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else EMPTY


def sequence(value: object) -> Sequence[Any]:
    """The list itself, or an empty one in place of anything else."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """The string itself, or "" in place of anything else."""
    return value if isinstance(value, str) else ""
