"""What a person sees of an offline plan: verdicts, the GPUs that change, placements, reasons.

What says the same is folded into one line; `wide` draws every GPU and every pod. Names are never
padded to the longest, and nothing is wrapped: a terminal does that, a pipe must not.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from cli.drawing.bars import Look, bar, cells, legend, words
from cli.drawing.folding import Fold, alike_in_order, and_more, fold_pods, ranges
from cli.plan.hardware import UNKNOWN
from cli.plan.outcome import Complaint, NodeReport, Outcome
from cli.reading.inventory import Notice
from cli.terminal import ASCII, Line, Span, Terminal, indented, inert, line, natural
from mpslice.gpus import GpuUuid
from mpslice.slices import SliceSize
from nodeagent.gpus.refusals import FOREIGN_PLUGIN
from planner.model.nodes import Gpu, Layout, NodeState
from planner.model.plan import Placement
from planner.words.explain import sizes_text

T = TypeVar("T")

_MOST: Final = 40  # lines of a part that is not wide
_MOST_NODES: Final = 20  # groups of nodes that look alike
_MOST_PLACES: Final = 4  # nodes that are named for the pods of one workload
_BARE_PODS: Final = 10  # pods without a workload that are told one by one
_PLAIN: Final[Mapping[int, str]] = str.maketrans({"×": "x", "…": "...", "–": "-"})
_POD: Final = "Pod "
_EMPTY: Final = "with --assume-empty the plan is as if other plugins, and their pods, had left"

_Claims = Mapping[tuple[str, GpuUuid], dict[SliceSize, int]]
"""The slices that pods of this plan get, by node and GPU."""


def draw(outcome: Outcome, terminal: Terminal, *, wide: bool = False) -> list[Line]:
    """Every part under its heading; parts without content are left out."""
    owners: Mapping[str, str] = {} if wide else outcome.owners
    most = None if wide else _MOST
    room = cells(terminal.width)
    gpus = _gpus(outcome, terminal, room, wide=wide)
    parts = (
        ("Refused at admission", _capped(_complaints(outcome.rejected, owners), most, "pods")),
        ("Asks for no slice", _capped(_notices(outcome.unplanned, owners, "bad"), most, "objects")),
        ("Warnings", _capped(_notices(outcome.warnings, owners, "free"), most, "warnings")),
        ("No node is handed over", list(_notices(outcome.candidates, owners, "free"))),
        ("Not planned on", _capped(_left_alone(outcome.nodes), most, "nodes")),
        ("GPUs" if wide else "GPUs that change", gpus),
        ("Placed", _capped(_placements(outcome, owners, wide=wide), most, "pods")),
        ("Not placed", _capped(_complaints(outcome.unplaced, owners), most, "pods")),
    )
    lines: list[Line] = []
    for title, content in parts:
        if content:
            lines += [line(Span(title, "title")), *indented(content), ()]
    lines += [line(text) for text in _totals(outcome)]
    signs = _PLAIN if terminal.glyphs == ASCII else {}
    return [_finished(each, signs) for each in lines]


def _finished(each: Line, signs: Mapping[int, str]) -> Line:
    """Drops empty spans, and replaces characters that the terminal cannot print."""
    return tuple(
        span._replace(text=span.text.translate(signs)) if signs else span
        for span in each
        if span.text
    )


def _capped(lines: Iterable[Line], most: int | None, what: str) -> list[Line]:
    found = list(lines)
    if most is None or len(found) <= most:
        return found
    more = f"and {len(found) - most} more lines of {what}; -o wide shows all"
    return [*found[:most], line(Span(more, "faint"))]


def _complaints(complaints: Iterable[Complaint], owners: Mapping[str, str]) -> Iterator[Line]:
    """Lists pods with what is wrong; pods with the same message share a line."""
    folds = _folded(complaints, lambda c: c.pod, lambda c: c.message, owners)
    for fold in sorted(folds, key=lambda fold: natural(fold.title)):
        yield from _told(fold.title, fold.items[0].message, "bad")


def _folded(
    items: Iterable[T],
    pod: Callable[[T], str],
    alike: Callable[[T], Hashable],
    owners: Mapping[str, str],
    bare: int = 1,
) -> Iterator[Fold[T]]:
    """`bare`: so many pods of a namespace that have no workload are told one by one."""
    for fold in fold_pods(items, pod, alike, owners):
        if pod(fold.items[0]) in owners or len(fold.items) > bare:
            yield fold
        else:
            yield from (Fold(pod(item), (item,)) for item in fold.items)


def _told(title: str, message: str, style: str) -> Iterator[Line]:
    """`title: message`; further lines of the message below, so that each can be found by itself."""
    first, *more = message.splitlines() or [""]
    yield line(f"{inert(title)}: ", Span(inert(first), style))
    for each in more:
        yield line("  ", Span(inert(each), style))


def _notices(notices: Iterable[Notice], owners: Mapping[str, str], style: str) -> Iterator[Line]:
    """Lists objects with their messages; objects with the same message share a line."""
    for message, alike in alike_in_order(notices, lambda notice: notice.message):
        pods = [notice.object.removeprefix(_POD) for notice in alike if _is_pod(notice)]
        for fold in fold_pods(pods, str, lambda _: None, owners):
            yield from _told(fold.title, message, style)
        others = [notice.object for notice in alike if not _is_pod(notice)]
        if others:
            yield from _told(and_more(others), message, style)


def _is_pod(notice: Notice) -> bool:
    return notice.object.startswith(_POD)


def _left_alone(nodes: Iterable[NodeReport]) -> Iterator[Line]:
    """Lists nodes and GPUs that are not planned on; nodes set aside are in the warnings."""
    told = [node for node in nodes if node.reason != UNKNOWN and _why(node)]
    for why, alike in alike_in_order(told, _why):
        names = and_more([node.name for node in alike])
        yield from _told(names, f"{why}; not planned on", "free")
    if any(node.reason == FOREIGN_PLUGIN for node in told):
        yield line(Span(_EMPTY, "faint"))


def _why(node: NodeReport) -> str:
    said = node.message or node.reason
    if not node.ready:
        return f"NotReady; {said}" if said else "NotReady"
    if node.cordoned:
        return f"cordoned; {said}" if said else "cordoned"
    return said


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What is drawn of a node; nodes that are equal but for the name are drawn as one.

    `uuids` are those of the GPUs where each is drawn by itself.
    """

    states: tuple[str, ...]
    product: str
    looks: tuple[tuple[int, Look], ...]
    uuids: tuple[GpuUuid, ...] = ()


def _gpus(outcome: Outcome, terminal: Terminal, room: int, *, wide: bool) -> list[Line]:
    """Nodes as headings with their GPUs indented; GPUs and nodes that look alike as one."""
    claims = _claims(outcome.placed)
    reports = {report.name: report for report in outcome.nodes}
    states = sorted(outcome.snapshot.nodes, key=lambda state: natural(state.node.name))
    drawn = [
        (state.node.name, found)
        for state in states
        if (found := _drawn(state, reports.get(state.node.name), outcome, claims, wide)).looks
    ]
    lines: list[Line] = []
    groups = (
        [(found, [(name, found)]) for name, found in drawn]
        if wide
        else list(alike_in_order(drawn, lambda item: item[1]))
    )
    shown = groups if wide else groups[:_MOST_NODES]
    for found, members in shown:
        lines.append(_heading([name for name, _ in members], found))
        lines += indented(_bars(found, room, terminal))
    rest = sum(len(members) for _, members in groups[len(shown) :])
    if rest:
        text = f"and {rest} more nodes whose GPUs change; -o wide shows all"
        lines.append(line(Span(text, "faint")))
    return [*lines, legend(terminal.glyphs)] if lines else []


def _claims(placements: Iterable[Placement]) -> _Claims:
    claims: dict[tuple[str, GpuUuid], dict[SliceSize, int]] = {}
    for placement in placements:
        for gpu, size in zip(placement.gpus, placement.pod.seats, strict=True):
            sizes = claims.setdefault((placement.node, gpu), {})
            sizes[size] = sizes.get(size, 0) + 1
    return claims


def _drawn(
    state: NodeState, report: NodeReport | None, outcome: Outcome, claims: _Claims, wide: bool
) -> _Drawn:
    name = state.node.name
    layout = outcome.plan.layouts.get(name, {})
    looks = []
    for gpu in state.gpus:
        if wide or _is_touched(name, gpu, outcome.plan.layouts, claims):
            new = claims.get((name, gpu.uuid), {})
            look = Look.of(gpu.capacity, gpu.used, new, layout.get(gpu.uuid, _stands(gpu)))
            looks.append((gpu.index, look))
    product = state.gpus[0].product if state.gpus else ""
    uuids = tuple(gpu.uuid for gpu in state.gpus) if wide else ()
    return _Drawn(report.states if report else (), product, tuple(looks), uuids)


def _is_touched(node: str, gpu: Gpu, layouts: Mapping[str, Layout], claims: _Claims) -> bool:
    """Whether a pod of this plan gets a slice there, or slices come or go."""
    if (node, gpu.uuid) in claims:
        return True
    total = layouts.get(node, {}).get(gpu.uuid)
    return total is not None and _stands(gpu) != Counter(dict(total))


def _stands(gpu: Gpu) -> Counter[SliceSize]:
    return Counter(dict(gpu.used)) + Counter(dict(gpu.free))


def _heading(names: Sequence[str], drawn: _Drawn) -> Line:
    alike = f" ({len(names)} nodes alike)" if len(names) > 1 else ""
    state = f" ({', '.join(drawn.states)})" if drawn.states else ""
    product = f"  {drawn.product}" if drawn.product else ""
    return line(inert(and_more(names)), alike, Span(state, "free"), Span(inert(product), "faint"))


def _bars(drawn: _Drawn, room: int, terminal: Terminal) -> Iterator[Line]:
    """A line for each GPU where all are drawn, else for those that look alike."""
    if drawn.uuids:
        rows = [
            (f"GPU {index}", look, f"  {inert(uuid)}")
            for (index, look), uuid in zip(drawn.looks, drawn.uuids, strict=True)
        ]
    else:
        rows = [
            (f"GPU {ranges(index for index, _ in alike)}", look, " each" if len(alike) > 1 else "")
            for look, alike in alike_in_order(drawn.looks, lambda item: item[1])
        ]
    width = max(len(label) for label, _, _ in rows)
    for label, look, after in rows:
        yield (
            Span(f"{label:<{width}}  {look.capacity}gb  "),
            *bar(look, room, terminal.glyphs),
            Span("  "),
            *words(look),
            Span(after, "faint"),
        )


def _placements(outcome: Outcome, owners: Mapping[str, str], *, wide: bool) -> Iterator[Line]:
    index = {
        (state.node.name, gpu.uuid): gpu.index
        for state in outcome.snapshot.nodes
        for gpu in state.gpus
    }
    bare = len(outcome.placed) if wide else _BARE_PODS
    folds = _folded(outcome.placed, lambda p: p.pod.key, lambda p: p.pod.seats, owners, bare)
    for fold in sorted(folds, key=lambda fold: natural(fold.title)):
        sizes = sizes_text(fold.items[0].pod)
        yield line(f"{inert(fold.title)}: {sizes} on {_places(fold.items, index)}")


def _places(placements: Sequence[Placement], index: Mapping[tuple[str, GpuUuid], int]) -> str:
    """`n1 GPU 0-3, n2 GPU 0 and 12 more nodes`."""
    by_node: dict[str, set[int]] = {}
    for placement in placements:
        gpus = (index[placement.node, gpu] for gpu in placement.gpus)
        by_node.setdefault(placement.node, set()).update(gpus)
    nodes = sorted(by_node, key=natural)
    shown = ", ".join(f"{inert(n)} GPU {ranges(by_node[n])}" for n in nodes[:_MOST_PLACES])
    more = len(nodes) - _MOST_PLACES
    return f"{shown} and {more} more nodes" if more > 0 else shown


def _totals(outcome: Outcome) -> Iterator[str]:
    """Sums up the GPUs that are touched, the memory that is left, and the pods with a place."""
    states = outcome.snapshot.nodes
    gpus = [gpu for state in states for gpu in state.gpus]
    if gpus:
        claims = _claims(outcome.placed)
        touched = {
            (state.node.name, gpu.uuid)
            for state in states
            for gpu in state.gpus
            if _is_touched(state.node.name, gpu, outcome.plan.layouts, claims)
        }
        total = sum(gpu.capacity for gpu in gpus)
        used = sum(size * count for gpu in gpus for size, count in gpu.used.items())
        new = sum(size * n for sizes in claims.values() for size, n in sizes.items())
        known = sum(len(report.gpus) for report in outcome.nodes) or len(gpus)
        yield (
            f"{len(touched)} of {known} GPUs touched, on {len({name for name, _ in touched})} "
            f"of {len(states)} nodes; of {total}gb {used}gb are used, {new}gb go to pods of this "
            f"plan, {total - used - new}gb are left"
        )
    yield (
        f"{len(outcome.placed)} placed, {len(outcome.unplaced)} not placed, "
        f"{len(outcome.rejected)} refused; {outcome.plan.withdrawn} free slices withdrawn "
        f"(read in {outcome.read_seconds:.2f} s, planned in {outcome.plan_seconds:.3f} s)"
    )
