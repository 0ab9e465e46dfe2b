"""An answer as lines for people."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from cli.rights import Denied, granting, sentence
from cli.terminal import Line, Span, indented, inert, line, natural, table
from cli.why.answer import Answer, Remedy, State, Told
from cli.why.trial import NodeVerdict

_STYLE: Final = {State.FINE: "good", State.ON_ITS_WAY: "good", State.NOT_CONCERNED: "faint"}
_MOST_NODES: Final = 12  # rows; -o wide has no such limit
_NAMED: Final = 4  # nodes that share a row


def draw(answer: Answer, now: datetime, *, wide: bool = False) -> list[Line]:
    """The whole answer; with `wide` every node has a row of its own."""
    lines = _head(answer)
    lines += indented(line(inert(fact)) for fact in answer.facts)
    if answer.nodes:
        count = len(answer.nodes) + answer.unjudged
        lines += [line(), line(Span(f"Nodes ({count})", "title"))]
        lines += indented(_nodes(answer.nodes, wide=wide))
        if answer.unjudged:
            lines += indented([line(f"{answer.unjudged} more nodes are not judged one by one")])
    if answer.queue is not None:
        lines += [line(), line(Span("Queue", "title")), *indented(_queue(answer))]
    if answer.remedies:
        lines += [line(), line(Span("What would help", "title")), *indented(_help(answer.remedies))]
    if answer.told:
        lines += [line(), line(Span("What was told", "title")), *indented(_told(answer.told, now))]
    for pod in answer.pods:
        lines += [line(), *draw(pod, now, wide=wide)]
    return lines


def draw_lacking(lacking: Sequence[Denied], consequence: str) -> list[Line]:
    """Names the rights that are missing, and the commands that grant them; [] where none is."""
    if not lacking:
        return []
    head = line(Span(inert(sentence(lacking, consequence)), "free"))
    grants = line("an administrator grants it with:")
    return [head, grants, *indented(line(inert(command)) for command in granting(lacking))]


def _head(answer: Answer) -> list[Line]:
    style = _STYLE.get(answer.state, "bad")
    words, *more = (inert(each) for each in answer.summary.split("\n"))
    head = line(Span(f"{inert(answer.about)}: ", "title"), Span(inert(answer.reason), style))
    return [(*head, Span(f": {words}")), *indented(map(line, more))]


def _nodes(verdicts: Sequence[NodeVerdict], *, wide: bool) -> list[Line]:
    """Lists the nodes, the nearest to a placement first; nodes of the same verdict share a row."""
    rows: dict[tuple[int, str, str], list[str]] = {}
    for verdict in verdicts:
        key = (_distance(verdict), _cause(verdict), verdict.detail)
        rows.setdefault(key, []).append(verdict.node)
    found: list[tuple[str, str, str]] = []
    for (_, cause, detail), names in sorted(rows.items()):
        names.sort(key=natural)
        if wide:
            found += ((name, cause, detail) for name in names)
        else:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            found.append((", ".join(names[:_NAMED]) + more, cause, detail))
    shown = found if wide else found[:_MOST_NODES]
    lines = table([tuple(map(inert, row)) for row in shown])
    if len(found) > len(shown):
        lines.append(line(Span(f"{len(found) - len(shown)} more rows: -o wide shows all", "faint")))
    return lines


def _distance(verdict: NodeVerdict) -> int:
    """Ranks a verdict: 0 for a node that fits, the farthest from a placement last."""
    causes = list(type(verdict.cause)) if verdict.cause is not None else []
    return 0 if verdict.cause is None else len(causes) - causes.index(verdict.cause)


def _cause(verdict: NodeVerdict) -> str:
    return str(verdict.cause) if verdict.cause is not None else "fits"


def _queue(answer: Answer) -> Iterator[Line]:
    queue = answer.queue
    if queue is None:
        return
    if queue.place == 1:
        others = f", before {queue.of - 1} more" if queue.of > 1 else ""
        yield line(f"first of the pods that wait{others}")
        return
    yield line(f"place {queue.place} of {queue.of} pods that wait")
    left = queue.place - 1 - len(queue.ahead)
    before = f"{left} {'pod' if left == 1 else 'pods'}, " if left else ""
    yield line(f"ahead: {before}{', '.join(map(inert, queue.ahead))}")


def _help(remedies: Iterable[Remedy]) -> Iterator[Line]:
    for remedy in remedies:
        yield line(f"- {inert(remedy.text)}")
        if remedy.command:
            yield line(f"    {inert(remedy.command)}")


def _told(told: Iterable[Told], now: datetime) -> list[Line]:
    rows = []
    for each in told:
        first, *more = each.message.split("\n")
        rows.append((_ago(each.at, now), inert(each.source), inert("; ".join((first, *more)))))
    return table(rows)


def _ago(at: str, now: datetime) -> str:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return "-"
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{age((now - moment).total_seconds())} ago"


def age(seconds: float) -> str:
    """`12s`, `3m`, `2h` or `4d`, as kubectl has it."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
