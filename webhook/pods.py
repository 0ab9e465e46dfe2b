"""A pod as the rules see it: read once from JSON into frozen records, never raising.

Whatever is of the wrong type counts as absent: the API server refuses such a pod by itself, and
says so better.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from mpslice.errors import InvalidQuantity
from mpslice.quantities import milli
from mpslice.slices import (
    MIG_PREFIX,
    WHOLE_GPU,
    SliceSize,
    looks_like_slice,
    parse_resource,
)
from webhook.verdicts import EMPTY, Place, shorten

MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""On the API's copy of a static pod, which the kubelet runs whatever we answer."""

_SHARED_GPU: Final = "nvidia.com/gpu.shared"  # NVIDIA's plugin's name for a time-sliced whole GPU
_USUAL_LENGTH: Final = 64
_MOST_REMEMBERED: Final = 1024

ContainerKind = Literal["initContainers", "containers", "ephemeralContainers"]
"""The three lists of a pod's spec, by their field."""

_ASKING: Final[tuple[ContainerKind, ...]] = ("initContainers", "containers")
_EPHEMERAL: Final = "ephemeralContainers"


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


class Container(NamedTuple):
    """What the rules need of one container.

    `slices` are those of `asks` that it really requests, `security` is its securityContext. What
    only one rule looks at is read from `raw` when that rule comes to it; `stripped` are the indexes
    of mounts that are taken away. A field that it does not have is EMPTY.
    """

    prefix: str
    kind: ContainerKind
    position: int
    raw: Mapping[str, Any]
    limits: Mapping[str, Any]
    requests: Mapping[str, Any]
    security: Mapping[str, Any]
    asks: tuple[Ask, ...]
    slices: tuple[Ask, ...]
    stripped: frozenset[int] = frozenset()

    @property
    def place(self) -> Place:
        """How a message names it."""
        path = f"{self.prefix}spec.{self.kind}[{self.position}]"
        return Place(text(self.raw.get("name")), path)

    @property
    def pointer(self) -> str:
        """Where it stands in a pod, for a patch (RFC 6901)."""
        return f"/spec/{self.kind}/{self.position}"

    @property
    def ends(self) -> bool:
        """Whether it is an init container that is no sidecar."""
        return self.kind == "initContainers" and self.raw.get("restartPolicy") != "Always"

    @property
    def whole_gpus(self) -> tuple[str, ...]:
        """What it requests of whole GPUs, MIG devices and time-sliced GPUs, by name."""
        return tuple(
            name
            for name, value in {**self.requests, **self.limits}.items()
            if (name in (WHOLE_GPU, _SHARED_GPU) or name.startswith(MIG_PREFIX))
            and whole_count(value) != 0
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


class Pod(NamedTuple):
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
        return bool(self.slice_containers) or any(c.asks for c in self.containers)

    def joins_slices(self, container: Container) -> bool:
        """Whether it debugs a slice pod; it asks for nothing itself, and sees what the pod sees."""
        return container.kind == _EPHEMERAL and bool(self.slice_containers)

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
    for kind in _ASKING:
        for position, raw in enumerate(sequence(spec.get(kind))):
            resources = raw.get("resources") if isinstance(raw, dict) else None
            if not isinstance(resources, dict):
                continue
            limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
            names = tuple(filter(_lookalikes.__getitem__, {**limits, **requests}))
            if names:
                asks = _asks(names, limits, requests)
                slices = tuple([ask for ask in asks if ask.size is not None and ask.count])
                security = mapping(raw.get("securityContext"))
                yield Container(
                    prefix, kind, position, raw, limits, requests, security, asks, slices
                )
    # An ephemeral container cannot ask for resources (validateEphemeralContainers).
    for position, item in enumerate(sequence(spec.get(_EPHEMERAL))):
        raw = mapping(item)
        security = mapping(raw.get("securityContext"))
        yield Container(prefix, _EPHEMERAL, position, raw, EMPTY, EMPTY, security, (), ())


def _asks(
    names: tuple[str, ...], limits: Mapping[str, Any], requests: Mapping[str, Any]
) -> tuple[Ask, ...]:
    """What is asked for by these names; where one is in both, the limit counts."""
    asks = []
    for name in names:
        field, value = ("limits", limits[name]) if name in limits else ("requests", requests[name])
        usual = isinstance(value, str) and len(value) + len(name) <= _USUAL_LENGTH
        ask = _usual_ask(name, field, value) if usual else _ask(name, field, value)
        if ask.count != 0:
            asks.append(ask)
    return tuple(asks)


def _ask(name: str, field: str, value: object) -> Ask:
    return Ask(name, f"resources.{field}", show(value), parse_resource(name), whole_count(value))


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


class _Lookalikes(dict[str, bool]):
    """Which resource names look like a slice's, remembered."""

    def __missing__(self, name: str) -> bool:
        found = looks_like_slice(name)
        if len(name) <= _USUAL_LENGTH and len(self) < _MOST_REMEMBERED:
            self[name] = found
        return found


# A cluster's pods use few names and amounts: looking up is cheaper than reading again. Only short
# ones are remembered, since a client may send any length.
_lookalikes: Final = _Lookalikes()
_usual_ask = lru_cache(maxsize=_MOST_REMEMBERED)(_ask)


def mapping(value: object) -> Mapping[str, Any]:
    """The object itself, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else EMPTY


def sequence(value: object) -> Sequence[Any]:
    """The list itself, or an empty one in place of anything else."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """The string itself, or "" in place of anything else."""
    return value if isinstance(value, str) else ""
