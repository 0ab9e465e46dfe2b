"""Gathers what pods hold and use, and says it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cli.rights import Denied, denied
from cli.terminal import Line, Span, inert, line, table
from cli.top.sources import Measured, Proxy, from_agents, from_prometheus
from cli.top.usage import By, Sample, Usage, complete, owners_of, total, usages
from cli.why.answer import rights_json
from cli.why.draw import draw_lacking
from mpslice.gpus import MIB, MemoryUnit
from mpslice.kube.api import PODS, Json, list_all
from mpslice.kube.errors import Forbidden
from planner.model.pods import Pod
from planner.state.parse import parse_pod

_MOST_SILENT: Final = 5
_CONSEQUENCE: Final = "the memory in use is unknown; only what was asked for is shown"


@dataclass(frozen=True, slots=True)
class Top:
    """The rows and their total; `silent` are nodes whose agents did not answer, with the reason."""

    by: By
    rows: tuple[Usage, ...]
    total: Usage
    silent: tuple[tuple[str, str], ...] = ()
    lacking: tuple[Denied, ...] = ()


async def gather(
    kube: Proxy, by: By, namespace: str, fallback: str, agents: str, prometheus: str, window: str
) -> Top:
    """What the pods of a namespace, or of all that may be listed, use of their slices.

    `fallback` is the namespace of a person who may not list the pods of all; `agents` is where the
    node agents run. Raises a KubeError, or UnusableInput for a Prometheus that does not answer.
    """
    pods, lacking = await _pods(kube, namespace, fallback)
    if prometheus:
        measured = await from_prometheus(prometheus, window)
    else:
        measured = await from_agents(kube, agents)
    seen = {(pod["metadata"].get("namespace"), pod["metadata"]["name"]) for pod in pods}
    # Agents and Prometheus know every pod: shown are those that the person may list.
    mine = [s for s in measured.samples if (s.namespace, s.pod) in seen]
    rows = usages(complete(mine, _holding(pods)), by, owners_of(pods))
    missing = (*measured.lacking, *lacking)
    return Top(by, tuple(rows), total(rows), _silent(measured, rows), missing)


def _silent(measured: Measured, rows: Iterable[Usage]) -> tuple[tuple[str, str], ...]:
    return measured.silent if any(row.unmeasured for row in rows) else ()


async def _pods(kube: Proxy, namespace: str, fallback: str) -> tuple[list[Json], list[Denied]]:
    if namespace:
        return await list_all(kube, PODS, namespace=namespace), []
    try:
        return await list_all(kube, PODS), []
    except Forbidden as error:
        pods = await list_all(kube, PODS, namespace=fallback)
        return pods, [denied(error, "list", PODS)]


def _holding(pods: Iterable[Json]) -> list[Sample]:
    """What pods that have a node asked for, as far as that is told without measuring: a slice of N
    gb is somewhat less than N gb, by what the driver and MPS keep.
    """
    parsed: list[Pod] = [parse_pod(pod) for pod in pods]
    return [
        Sample(pod.namespace, pod.name, pod.node, "", sum(pod.seats) * MemoryUnit.GB.value // MIB)
        for pod in parsed
        if pod.seats and pod.node and not pod.finished
    ]


def draw(top: Top) -> list[Line]:
    """The rows with their total, what is not measured, and missing rights."""
    if not top.rows:
        return [line("no pod holds a slice")]
    several = top.by is not By.POD
    head = (str(top.by).upper(), *(("PODS",) if several else ()), *_AMOUNTS)
    rows = [_cells(row, several=several) for row in top.rows]
    if len(rows) > 1:
        rows.append(_cells(top.total, several=several))
    last = () if several else ("WHERE",)
    lines = table([(*head, *last), *rows], right=range(1, len(head)))
    unknown = top.total.unmeasured
    if unknown:
        text = "1 pod is" if unknown == 1 else f"{unknown} pods are"
        lines.append(line(Span(f"{text} not measured and not part of the sums", "faint")))
    lines += (
        line(Span(f"the agent on {inert(node)} did not answer: {inert(why)}", "bad"))
        for node, why in top.silent[:_MOST_SILENT]
    )
    if len(top.silent) > _MOST_SILENT:
        lines.append(line(f"{len(top.silent) - _MOST_SILENT} more agents did not answer"))
    if top.lacking:
        lines += [line(), *draw_lacking(top.lacking, _consequence(top.lacking))]
    return lines


_AMOUNTS: Final = ("ASKED", "USED", "PEAK", "UNUSED", "USED OF ASKED")


def _consequence(lacking: Sequence[Denied]) -> str:
    if any(each.right.resource == "pods/proxy" for each in lacking):
        return _CONSEQUENCE
    return "pods of other namespaces are not shown"


def _cells(row: Usage, *, several: bool) -> tuple[str | Span, ...]:
    share = f"{100 * row.used // row.asked}%" if row.used is not None and row.asked else "?"
    waste = row.waste
    style = "bad" if waste is not None and 2 * waste > row.asked else ""
    return (
        inert(row.name),
        *((str(row.pods),) if several else ()),
        f"{row.asked}Mi",
        _amount(row.used),
        _amount(row.peak),
        Span(_amount(waste), style),
        share,
        *(() if several else (inert(row.where),)),
    )


def _amount(mib: int | None) -> str:
    return "?" if mib is None else f"{mib}Mi"


def as_json(top: Top) -> dict[str, Any]:
    """The JSON form; amounts in MiB, null where nothing was measured (docs/why.md)."""
    return {
        "by": str(top.by),
        "rows": [_row(row) for row in top.rows],
        "total": _row(top.total),
        "silentAgents": [{"node": node, "message": why} for node, why in top.silent],
        "missingRights": rights_json(top.lacking),
    }


def _row(row: Usage) -> dict[str, Any]:
    return {
        "name": row.name,
        "pods": row.pods,
        "askedMiB": row.asked,
        "usedMiB": row.used,
        "peakMiB": row.peak,
        "unusedMiB": row.waste,
        "where": row.where,
        "unmeasured": row.unmeasured,
    }
