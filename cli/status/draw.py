"""Draws a picture as lines for people, with as much detail as its size allows."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from cli.drawing.folding import alike_in_order, ranges
from cli.status.picture import Gpu, NodeRow, Picture, Total, Waiting
from cli.terminal import Glyphs, Line, Span, indented, inert, line, table
from mpslice.slices import size_label

_NARROWEST, _WIDEST = 16, 48  # cells of a bar
_BESIDE: Final = 62  # characters of a line that are no bar
_MOST_GPUS: Final = 48  # lines; above, each node has one
_MOST_NODES: Final = 64  # lines; above, nodes are told in totals alone
_MOST_ROWS: Final = 40  # of pods
_MOST_COMING: Final = 10  # pods on their way
_NAMED: Final = 3  # pods that share a row


def draw(
    picture: Picture, glyphs: Glyphs, width: int | None = None, *, wide: bool = False
) -> list[Line]:
    """Everything, each part under its heading; a part without content is left out.

    `wide` shows every GPU and every pod, whatever their number.
    """
    cells = max(_NARROWEST, min(_WIDEST, (width or 0) - _BESIDE)) if width else 32
    parts: list[tuple[str, list[Line]]] = []
    if picture.nodes is not None:
        parts.append(("GPUs", _gpus(picture, glyphs, cells, wide=wide)))
        parts.append(("Not served", _troubles(picture.nodes)))
        parts.append(("Node pools", _totals(picture)))
    parts.append(("Namespaces", _shares(picture)))
    parts.append(("Pods with slices", _holdings(picture, wide=wide)))
    parts.append(("Waiting", _waiting(picture, wide=wide)))
    lines: list[Line] = []
    for title, content in parts:
        if content:
            lines += [line(Span(title, "title")), *indented(content), line()]
    where = f" in namespace {inert(picture.namespace)}" if picture.namespace else ""
    if not lines or (where and not (picture.holdings or picture.waiting)):
        lines += [line(f"no pod asks for a slice{where}"), line()]
    return lines


def _gpus(picture: Picture, glyphs: Glyphs, cells: int, *, wide: bool) -> list[Line]:
    nodes = picture.nodes or ()
    if not nodes:
        return [line(f"no node is labelled {picture.label}")]
    gpus = sum(len(node.gpus) for node in nodes)
    if wide or gpus <= _MOST_GPUS:
        rows = [_gpu_row(node, gpu, picture, glyphs, cells) for node in nodes for gpu in node.gpus]
        lines = _bars(rows)
    elif len(nodes) <= _MOST_NODES:
        lines = _bars([_node_row(node, glyphs, cells) for node in nodes])
        lines.append(line(Span("a line for each node; -o wide shows every GPU", "faint")))
    else:
        rows = [_total_row(pool, glyphs, cells) for pool in picture.pools]
        lines = _bars(rows)
        text = f"a line for each pool of {len(nodes)} nodes; -o wide shows every GPU"
        lines.append(line(Span(text, "faint")))
    if not lines:
        return []
    return [*lines, _legend(picture, glyphs)]


_Row = tuple[str, str, Line, str]
"""A name, the capacity, the bar, words."""


def _bars(rows: Sequence[_Row]) -> list[Line]:
    """Aligns the rows; a bar is several spans with one common width."""
    heads = table([(inert(name), capacity, "") for name, capacity, _, _ in rows], right=[1])
    return [
        (*head, *bar, Span(f"  {words}"))
        for head, (_, _, bar, words) in zip(heads, rows, strict=True)
    ]


def _gpu_row(node: NodeRow, gpu: Gpu, picture: Picture, glyphs: Glyphs, cells: int) -> _Row:
    spans: list[Span] = []
    for each in gpu.slices:
        mine = each.pod.partition("/")[0] == picture.namespace and picture.namespace != ""
        style = ("mine" if mine else "used") if each.used else "free"
        mark = {"mine": glyphs.mine, "used": glyphs.used, "free": glyphs.free}[style]
        width = max(1, each.size * cells // max(gpu.capacity, 1))
        # The first cell of a slice is an edge, so that neighbours can be told apart.
        spans.append(Span(glyphs.edge + mark * (width - 1), style))
    words = gpu.reason or _slices_in_words(gpu)
    return f"{node.name} GPU {gpu.index}", f"{gpu.capacity}gb", _filled(spans, glyphs, cells), words


def _slices_in_words(gpu: Gpu) -> str:
    """`2 x 10gb used, 20gb free`."""
    said = []
    for (used, size), group in groupby(gpu.slices, key=lambda s: (s.used, s.size)):
        count = len(list(group))
        times = f"{count} x " if count > 1 else ""
        said.append(f"{times}{size_label(size)} {'used' if used else 'free'}")
    return ", ".join(said) or "uncarved"


def _node_row(node: NodeRow, glyphs: Glyphs, cells: int) -> _Row:
    served = [gpu for gpu in node.gpus if not gpu.reason]
    total = Total(
        node.name,
        1,
        len(node.gpus),
        sum(gpu.capacity for gpu in served),
        sum(gpu.used for gpu in node.gpus),
        sum(gpu.free for gpu in node.gpus),
    )
    name, capacity, bar, words = _total_row(total, glyphs, cells)
    return name, capacity, bar, f"{words}, {len(node.gpus)} GPUs"


def _total_row(total: Total, glyphs: Glyphs, cells: int) -> _Row:
    capacity = max(total.capacity, 1)
    spans = [
        Span(glyphs.used * (total.used * cells // capacity), "used"),
        Span(glyphs.free * (total.free * cells // capacity), "free"),
    ]
    words = f"{total.used}gb used, {total.free}gb free, {total.uncarved}gb uncarved"
    return total.name, f"{total.capacity}gb", _filled(spans, glyphs, cells), words


def _filled(spans: Sequence[Span], glyphs: Glyphs, cells: int) -> Line:
    found: list[Span] = []
    left = cells
    for span in spans:
        found.append(span._replace(text=span.text[:left]))
        left -= len(found[-1].text)
    return (*found, Span(glyphs.idle * left))


def _legend(picture: Picture, glyphs: Glyphs) -> Line:
    mine = (Span(glyphs.mine, "mine"), Span(" of this namespace  ")) if picture.namespace else ()
    return (
        Span(glyphs.used, "used"),
        Span(" used  "),
        *mine,
        Span(glyphs.free, "free"),
        Span(f" free slice  {glyphs.idle} uncarved"),
    )


def _troubles(nodes: Iterable[NodeRow]) -> list[Line]:
    rows: list[tuple[str, Span]] = []
    for node in nodes:
        if node.state:
            rows.append((inert(node.name), Span(inert(node.state), "bad")))
        sick = (gpu for gpu in node.gpus if gpu.reason)
        rows += (
            (f"{inert(node.name)} GPU {ranges(g.index for g in gpus)}", Span(inert(why), "bad"))
            for why, gpus in alike_in_order(sick, lambda gpu: gpu.reason)
        )
    shown = rows[:_MOST_ROWS]
    return [*table(shown), *_more(len(rows) - len(shown))]


def _totals(picture: Picture) -> list[Line]:
    if not picture.nodes:
        return []
    totals = picture.pools if len(picture.pools) < 2 else (*picture.pools, picture.total)
    head = ("POOL", "NODES", "GPUS", "CAPACITY", "USED", "FREE", "UNCARVED")
    rows = [
        (
            inert(t.name),
            str(t.nodes),
            str(t.gpus),
            *(f"{gb}gb" for gb in (t.capacity, t.used, t.free, t.uncarved)),
        )
        for t in totals
    ]
    return table([head, *rows], right=range(1, 7))


def _shares(picture: Picture) -> list[Line]:
    if not picture.shares:
        return []
    head = ("NAMESPACE", "PODS", "HELD", "WAITING", "WAITED FOR")
    rows = [
        (inert(s.namespace), str(s.pods), f"{s.held}gb", str(s.waiting), f"{s.waiting_gb}gb")
        for s in picture.shares
    ]
    return table([head, *rows], right=range(1, 5))


def _holdings(picture: Picture, *, wide: bool) -> list[Line]:
    """Lists the pods that hold slices, or their number where they are too many to read."""
    if len(picture.holdings) > _MOST_ROWS and not wide:
        return _counted(f"{len(picture.holdings)} pods", picture)
    return table([(inert(h.pod), h.sizes, inert(h.where)) for h in picture.holdings])


def _counted(what: str, picture: Picture) -> list[Line]:
    narrower = "-o wide" if picture.namespace else "-o wide or -n NAMESPACE"
    return [line(what, Span(f": {narrower} lists them", "faint"))]


def _waiting(picture: Picture, *, wide: bool) -> list[Line]:
    coming = [each for each in picture.waiting if each.coming]
    if len(coming) <= _MOST_COMING or wide:
        return _waiting_rows(picture.waiting, wide=wide)
    others = [each for each in picture.waiting if not each.coming]
    on_their_way = _counted(f"{len(coming)} pods are on their way to their slices", picture)
    return [*on_their_way, *_waiting_rows(others, wide=wide)]


def _waiting_rows(waiting: Sequence[Waiting], *, wide: bool) -> list[Line]:
    rows = [_waiting_row(each) for each in (_alone if wide else _folded)(waiting)]
    if not any(row[0] for row in rows):
        rows = [row[1:] for row in rows]  # nobody knows the places in the queue
    shown = rows if wide else rows[:_MOST_ROWS]
    return [*table(shown), *_more(len(rows) - len(shown))]


def _waiting_row(pods: Sequence[Waiting]) -> tuple[str | Span, ...]:
    first = pods[0]
    names = ", ".join(inert(pod.pod) for pod in pods[:_NAMED])
    more = f" and {len(pods) - _NAMED} more" if len(pods) > _NAMED else ""
    place = f"#{first.place}" if first.place else ""
    words = " ".join(inert(first.text).split())
    return place, f"{names}{more}", first.sizes, Span(words, "good" if first.coming else "bad")


def _alone(waiting: Iterable[Waiting]) -> Iterator[list[Waiting]]:
    return ([each] for each in waiting)


def _folded(waiting: Iterable[Waiting]) -> Iterator[list[Waiting]]:
    """Pods of one namespace and size that are told the same share a row, where they follow."""

    def told(each: Waiting) -> tuple[str, str, str]:
        return each.pod.partition("/")[0], each.sizes, each.text

    return (list(group) for _, group in groupby(waiting, key=told))


def _more(count: int) -> list[Line]:
    return [line(Span(f"{count} more: -o wide shows all", "faint"))] if count > 0 else []
