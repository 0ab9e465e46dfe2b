"""What a plan is made with besides the manifests: the flags, and the chart's values."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cli.errors import UnusableInput
from cli.plan.hardware import GpuRule
from cli.reading.manifests import read_document
from cli.reading.selectors import Selector
from mpslice.flags import absolute_path, boolean, choice, slice_limit, user_id
from mpslice.gpus import MAX_SLICES_PER_GPU, MemoryUnit
from mpslice.slices import SliceSize, parse_size_label
from webhook.settings import (
    Compute,
    DevShm,
    Enforcement,
    PrivilegeEscalation,
    Settings,
    TooLarge,
)

Label = tuple[str, str]

_GROUPS: Final = frozenset({"admission", "mps", "nodeAgent", "nodeLabel", "planner", "quota"})
_MOST_NODES: Final = 10_000


@dataclass(frozen=True, slots=True)
class MoreNodes:
    """What `--add-node` says: `count` nodes like the one named."""

    like: str
    count: int


def more_nodes(text: str) -> MoreNodes:
    """Reads `LIKE` or `LIKE=COUNT`; raises ValueError, saying what to write."""
    like, equals, count = text.partition("=")
    number = int(count) if count.isascii() and count.isdigit() and len(count) < 6 else 0
    if not like or (equals and not 0 < number <= _MOST_NODES):
        raise ValueError(f"is not NODE or NODE=COUNT with a count from 1 to {_MOST_NODES}")
    return MoreNodes(like, number if equals else 1)


@dataclass(frozen=True, slots=True)
class Options:
    """`settings` are the webhook's. `solver`: whether one may be used where it is installed.
    `namespace`: of manifests that name none, "" for `default`. `remarks`: values that an offline
    plan cannot follow."""

    settings: Settings = field(default_factory=Settings)
    unit: MemoryUnit = MemoryUnit.GB
    max_slices_per_gpu: int = MAX_SLICES_PER_GPU
    label: Label = ("nos.nebuly.com/gpu-partitioning", "mps")
    namespace: str = ""
    excluded_namespaces: frozenset[str] = frozenset()
    solver: bool = True
    assume_label: Selector | None = None
    assume_empty: bool = False
    rules: tuple[GpuRule, ...] = ()
    remarks: tuple[str, ...] = ()
    more: tuple[MoreNodes, ...] = ()


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the chart: where it stands, which field it sets, and how it is read."""

    path: str
    field: str
    parse: Callable[[Any], Any]


def _text(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Reads a value by the parser of the flag that it becomes."""

    def read(value: Any) -> Any:
        if isinstance(value, bool):
            return parse(str(value).lower())
        if not isinstance(value, str | int):
            raise ValueError("is not a text or a number")
        return parse(str(value))

    return read


def _one_of(kind: Any) -> Callable[[Any], Any]:
    return _text(lambda text: kind(choice(*kind)(text)))


def _names(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("is not a list of texts")
    return frozenset(value)


def _sizes(value: Any) -> frozenset[SliceSize]:
    sizes = [parse_size_label(each) for each in _names(value)]
    found = frozenset(size for size in sizes if size is not None)
    if len(found) < len(sizes):
        raise ValueError("is not a list of sizes such as [10gb, 20gb]")
    return found


SETTINGS: Final = (
    Value("mps.userID", "mps_user", _text(user_id)),
    Value("mps.hostIPC", "host_ipc", _text(boolean)),
    Value("planner.gate", "gate", _text(boolean)),
    Value("admission.enforcement", "enforcement", _one_of(Enforcement)),
    Value("admission.devShm", "dev_shm", _one_of(DevShm)),
    Value("admission.tooLarge", "too_large", _one_of(TooLarge)),
    Value("admission.privilegeEscalation", "privilege_escalation", _one_of(PrivilegeEscalation)),
    Value("mps.compute", "compute", _one_of(Compute)),
    Value("mps.podRuntimeClassName", "pod_runtime_class_name", _text(str)),
    Value("nodeAgent.mpsRoot", "mps_root", _text(lambda text: str(absolute_path(text)))),
    Value("admission.allowedSizes", "allowed_sizes", _sizes),
    Value("quota.enabled", "quota", _text(boolean)),
)
"""The webhook's settings; every field of Settings is one."""

_OPTIONS: Final = (
    Value("mps.memoryUnit", "unit", _text(lambda text: MemoryUnit[choice("GB", "GiB")(text)])),
    Value("mps.maxSlicesPerGPU", "max_slices_per_gpu", _text(slice_limit)),
    Value("admission.excludedNamespaces", "excluded_namespaces", _names),
    Value("planner.solver", "solver", _text(lambda t: choice("auto", "on", "off")(t) != "off")),
)

_NOT_FOLLOWED: Final = {
    "admission.matchConditions": "the API server alone evaluates conditions",
    "webhook.extraArgs": "write the chart's values",
    "planner.extraArgs": "write the chart's values",
}
"""Values that decide, too, and why they are warned of."""


def read_values(files: Iterable[str]) -> Options:
    """Returns the options of the chart's values files; a later file wins, as with Helm.

    Raises UnusableInput, naming the value.
    """
    options = Options()
    for file in files:
        options = with_values(options, read_document(file), file)
    return options


def with_values(options: Options, values: Mapping[str, Any], file: str) -> Options:
    """The options with what a values file says; `file` is for messages."""
    if not values.keys() & _GROUPS and isinstance(values.get("mpslice"), dict):
        values = values["mpslice"]  # those of a chart that has mpslice's as a part
    if values and not values.keys() & _GROUPS:
        raise UnusableInput(f"{file}: holds no value of mpslice's chart; see docs/values.md")
    settings = _changes(SETTINGS, values, file)
    changes = _changes(_OPTIONS, values, file)
    key = _changes((Value("nodeLabel.key", "key", _text(str)),), values, file)
    value = _changes((Value("nodeLabel.value", "value", _text(str)),), values, file)
    label = (key.get("key", options.label[0]), value.get("value", options.label[1]))
    changed = replace(options.settings, **settings)
    remarks = (*options.remarks, *_remarks(values, file))
    return replace(options, settings=changed, label=label, remarks=remarks, **changes)


def _remarks(values: Mapping[str, Any], file: str) -> Iterator[str]:
    for path, why in _NOT_FOLLOWED.items():
        if _at(values, path, file):
            yield f"{file}: {path} is not followed offline: {why}"


def _at(values: Mapping[str, Any], path: str, file: str) -> Any:
    """The value at a path with dots, None where there is none.

    Raises UnusableInput where a value stands in the place of a map.
    """
    given: Any = values
    for step in path.split("."):
        if given is not None and not isinstance(given, dict):
            said = f"{given!r:.60} stands where a map with {step} belongs"
            raise UnusableInput(f"{file}: {path.removesuffix(f'.{step}')}: {said}")
        given = None if given is None else given.get(step)
    return given


def _changes(known: Iterable[Value], values: Mapping[str, Any], file: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in known:
        if (given := _at(values, each.path, file)) is None:
            continue
        try:
            found[each.field] = each.parse(given)
        except ValueError as error:
            raise UnusableInput(f"{file}: {each.path}: {given!r:.60} {error}") from error
    return found
