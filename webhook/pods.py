"""A pod as the rules see it: read once from JSON of the shape that is read (`webhook.shapes`).

What is made for each review is a dataclass that nobody changes and that is not frozen all the same:
a frozen one takes four times as long to make.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, Literal, NamedTuple, get_args

from mpslice.errors import InvalidQuantity
from mpslice.quantities import milli
from mpslice.slices import (
    DEVICE_CLASS_PREFIX,
    GB_RESOURCE,
    MIG_PREFIX,
    WHOLE_GPU,
    SliceSize,
    looks_like_slice,
    parse_resource,
)
from webhook.settings import GATE
from webhook.verdicts import EMPTY, Place, shorten

MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""On the API's copy of a static pod, which the kubelet runs whatever we answer."""

MOST_CONTAINERS: Final = 1000
"""Of a pod, in its three lists together; a large one has some dozens. A pod with more is not read:
the API server asks us before it validates, and sends as many as fit into 8 MiB."""

MOST_ENTRIES: Final = 10_000
"""Of a pod likewise: variables, mounts and resources of all its containers together."""

_WHOLE_GPUS: Final = frozenset({WHOLE_GPU, "nvidia.com/gpu.shared"})
"""The second is what NVIDIA's plugin calls a time-sliced whole GPU."""
_IPC_SYSCTLS: Final = ("kernel.shm", "kernel.msg", "fs.mqueue.")
_WHOLE_PREFIXES: Final = (MIG_PREFIX, DEVICE_CLASS_PREFIX)
_NAME: Final = itemgetter("name")

ContainerKind = Literal["initContainers", "containers", "ephemeralContainers"]
"""The three lists of a pod's spec, by their field, in the order of the rules."""

CONTAINER_KINDS: Final[tuple[ContainerKind, ...]] = get_args(ContainerKind)


@dataclass(slots=True)
class Ask:
    """One slice-like resource in a container's requests and limits.

    `field` is where it stands (limits first), `written` what stands there, `amount` how many that
    is; `size` is None when the name is not a slice's, `amount` when it is not a whole number.
    """

    name: str
    field: str
    written: object
    size: SliceSize | None
    amount: int | None

    def __str__(self) -> str:
        return f"{shorten(self.name)}: {show(self.written)}"


class Variable(NamedTuple):
    """An entry of a container's env: its position, its name ("" without one), and its value.

    `value` is None where it comes from elsewhere (`valueFrom`).
    """

    position: int
    name: str
    value: str | None


@dataclass(slots=True)
class Container:
    """What the rules need of one container.

    `slices` are those of `asks` that it really requests, `security` is its securityContext. What
    only one rule looks at is read from `raw` when that rule comes to it. `amounts` are its limits
    and its requests, the limit where a name is in both. An object that it does not have is EMPTY.
    """

    prefix: str
    kind: ContainerKind
    position: int
    raw: Mapping[str, Any]
    limits: Mapping[str, Any]
    requests: Mapping[str, Any]
    amounts: Mapping[str, Any]
    env: Sequence[Any]
    volume_mounts: Sequence[Any]
    security: Mapping[str, Any]
    asks: tuple[Ask, ...]
    slices: tuple[Ask, ...]

    @property
    def place(self) -> Place:
        """How a message names it."""
        path = f"{self.prefix}spec.{self.kind}[{self.position}]"
        return Place(self.raw.get("name", ""), path)

    @property
    def pointer(self) -> str:
        """Where it stands in a pod, for a patch (RFC 6901)."""
        return f"/spec/{self.kind}/{self.position}"

    @property
    def gb(self) -> int:
        """The gb of the slices that it requests."""
        return sum([(ask.size or 0) * (ask.amount or 0) for ask in self.slices])

    @property
    def ends(self) -> bool:
        """Whether it is an init container that is not a sidecar."""
        return self.kind == "initContainers" and self.raw.get("restartPolicy") != "Always"

    @property
    def privileged(self) -> bool:
        """Whether it is privileged."""
        return self.security.get("privileged") is True

    @property
    def added_capabilities(self) -> Sequence[Any]:
        """The capabilities that it adds, as written."""
        added: Sequence[Any] = self.security.get("capabilities", EMPTY).get("add", ())
        return added

    @property
    def escalation_open(self) -> bool:
        """Whether allowPrivilegeEscalation is unset, and may be set to false.

        The API server refuses false beside `privileged`, and beside the capability CAP_SYS_ADMIN in
        this spelling (ValidateSecurityContext).
        """
        if self.security.get("allowPrivilegeEscalation") is not None or self.privileged:
            return False
        return "CAP_SYS_ADMIN" not in self.added_capabilities

    @property
    def whole_gpus(self) -> list[str]:
        """Whole GPUs, MIG devices, time-sliced GPUs and device classes it requests, by name."""
        return [
            name
            for name in self.amounts
            if name in _WHOLE_GPUS or name.startswith(_WHOLE_PREFIXES)
            if whole_count(self.amounts[name]) != 0
        ]

    def variables(self, names: frozenset[str]) -> list[Variable]:
        """The variables of these names that it sets, in order."""
        if not self.env:
            return []
        try:
            if names.isdisjoint(map(_NAME, self.env)):
                return []  # nearly always, and five times as quick as looking at each
        except KeyError:
            pass  # an entry has no name
        return [
            Variable(at, entry["name"], None if entry.get("valueFrom") else entry.get("value", ""))
            for at, entry in enumerate(self.env)
            if entry.get("name") in names
        ]

    @property
    def claims(self) -> bool:
        """Whether it uses devices of the pod's resource claims."""
        return bool(self.raw.get("resources", EMPTY).get("claims"))


@dataclass(slots=True)
class Pod:
    """What the rules need of a pod.

    `containers` are all of them in the order of the rules, `slice_containers` those that request a
    slice; `names_gb` says whether any says anything of mpslice.io/gb. `surplus` is the container by
    which the pod has more than MOST_CONTAINERS or MOST_ENTRIES; there are no others then.
    """

    prefix: str
    annotations: Mapping[str, Any]
    labels: Mapping[str, Any]
    spec: Mapping[str, Any]
    security: Mapping[str, Any]
    containers: tuple[Container, ...]
    slice_containers: tuple[Container, ...]
    names_gb: bool
    host_ipc: bool
    windows: bool
    mirror: bool
    surplus: Place | None

    @property
    def host_users(self) -> bool:
        """Whether it runs in the host's user namespace."""
        return self.spec.get("hostUsers") is not False

    @property
    def ipc_sysctls(self) -> Iterator[tuple[int, str]]:
        """The sysctls of the IPC namespace that it sets, each with its position.

        Names: component-helpers/node/util/sysctl/namespace.go.
        """
        for position, item in enumerate(self.security.get("sysctls", ())):
            name = item.get("name", "").replace("/", ".")
            if name == "kernel.sem" or name.startswith(_IPC_SYSCTLS):
                yield position, name

    @property
    def takes_host_ipc(self) -> bool:
        """Whether the API server lets it have hostIPC (validateHostUsers, ValidateHostSysctl)."""
        return self.host_users and not self.windows and next(self.ipc_sysctls, None) is None

    @property
    def bound(self) -> bool:
        """Whether it has a node already."""
        return bool(self.spec.get("nodeName"))

    @property
    def gated(self) -> bool:
        """Whether it has our scheduling gate."""
        return GATE in [gate.get("name") for gate in self.spec.get("schedulingGates", ())]

    @property
    def concerns_us(self) -> bool:
        """Whether anything in it is, or looks like, a request for a slice or its gb; or it is not
        read."""
        return (
            bool(self.slice_containers)
            or self.surplus is not None
            or self.names_gb
            or any(container.asks for container in self.containers)
        )

    def user_of(self, container: Container) -> object:
        """The runAsUser in effect: the container's own, else the pod's, else None."""
        own = container.security.get("runAsUser")
        return self.security.get("runAsUser") if own is None else own

    def non_root_of(self, container: Container) -> object:
        """The runAsNonRoot in effect, likewise."""
        own = container.security.get("runAsNonRoot")
        return self.security.get("runAsNonRoot") if own is None else own


def read_pod(pod: Mapping[str, Any], prefix: str = "") -> Pod:
    """Reads a pod, or a pod template whose path is `prefix` (`spec.template.`)."""
    spec, metadata = pod.get("spec", EMPTY), pod.get("metadata", EMPTY)
    annotations = metadata.get("annotations", EMPTY)
    containers, surplus = _containers(spec, prefix)
    return Pod(
        prefix=prefix,
        annotations=annotations,
        labels=metadata.get("labels", EMPTY),
        spec=spec,
        security=spec.get("securityContext", EMPTY),
        containers=tuple(containers),
        slice_containers=tuple([container for container in containers if container.slices]),
        names_gb=True in [GB_RESOURCE in container.amounts for container in containers],
        host_ipc=spec.get("hostIPC") is True,
        windows=spec.get("os", EMPTY).get("name") == "windows",
        mirror=MIRROR_ANNOTATION in annotations,
        surplus=surplus,
    )


def _containers(spec: Mapping[str, Any], prefix: str) -> tuple[list[Container], Place | None]:
    """All containers; or none, and the one after the last that a pod may have."""
    containers: list[Container] = []
    entries = 0
    for kind in CONTAINER_KINDS:
        for position, raw in enumerate(spec.get(kind, ())):
            resources = raw.get("resources", EMPTY)
            limits, requests = resources.get("limits", EMPTY), resources.get("requests", EMPTY)
            env, mounts = raw.get("env", ()), raw.get("volumeMounts", ())
            entries += len(limits) + len(requests) + len(env) + len(mounts)
            if len(containers) == MOST_CONTAINERS or entries > MOST_ENTRIES:
                return [], Place(raw.get("name", ""), f"{prefix}spec.{kind}[{position}]")
            amounts = {**requests, **limits}
            # An ephemeral container cannot ask for resources (validateEphemeralContainers).
            asks = () if kind == "ephemeralContainers" else _asks(amounts, limits)
            slices = tuple([ask for ask in asks if ask.size and ask.amount]) if asks else ()
            security = raw.get("securityContext", EMPTY)
            containers.append(
                Container(
                    prefix,
                    kind,
                    position,
                    raw,
                    limits,
                    requests,
                    amounts,
                    env,
                    mounts,
                    security,
                    asks,
                    slices,
                )
            )
    return containers, None


def _asks(amounts: Mapping[str, Any], limits: Mapping[str, Any]) -> tuple[Ask, ...]:
    """What is asked for by names like a slice's, the limits first."""
    names = list(filter(looks_like_slice, amounts))
    if not names:
        return ()
    if len(names) > 1:
        names.sort(key=lambda name: name not in limits)
    asks = [_ask(name, amounts[name], limits) for name in names]
    return tuple([ask for ask in asks if ask.amount != 0])


def _ask(name: str, value: object, limits: Mapping[str, Any]) -> Ask:
    field = "resources.limits" if name in limits else "resources.requests"
    return Ask(name, field, value, parse_resource(name), whole_count(value))


def whole_count(value: object) -> int | None:
    """How many a quantity asks for; None when that is not a whole number, or a negative one.

    Rounded up to thousandths first, as the API server does with every resource list
    (pkg/apis/core/v1/defaults.go, SetDefaults_ResourceList).
    """
    if value == "1":  # as the API server writes nearly all of them
        return 1
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
