"""`python -m benchmarks.results`: writes RESULTS.md from the figures kept in benchmarks/results.

Nothing in it is written by hand but what other projects have published of themselves.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.cluster.table import idle_words
from benchmarks.results_beside import beside, is_virtual, peers

FOLDER: Final = Path(__file__).parent / "results"
PAGE: Final = Path(__file__).parent / "RESULTS.md"

Figures = dict[str, Any]

_HEAD: Final = """\
<!-- Made by `python -m benchmarks.results` from the figures in benchmarks/results. -->
# Measured

What `make scale` found: mpslice on a real etcd, kube-apiserver and kube-scheduler, with the real
planner, webhook and node agents; only the kubelets and MPS are played. Everything shares one
machine, so the times are worth what their ratios to the scheduler alone are, which bound as many
pods in the same run. Times are milliseconds, median / p99.
"""


def page(runs: list[Figures]) -> str:
    """The whole page; runs by their size."""
    ordered = sorted(runs, key=lambda run: ("parts" not in run, is_virtual(run), run["nodes"]))
    lines = [_HEAD, *beside(ordered)]
    for run in ordered:
        if is_virtual(run):
            lines += _hour(run)
        else:
            lines += _run(run) if "parts" in run else _planner(run)
    return "\n".join((*lines, *peers())) + "\n"


def kept() -> list[Figures]:
    """The figures of every run in the folder."""
    return [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]


def _planner(run: Figures) -> Iterator[str]:
    yield f"## The planner alone: {run['nodes']:,} nodes, {run['pods']:,} pods"
    yield ""
    yield _made(run)
    yield ""
    yield "| | % of a core | pod events a second | decisions a second | ms a decision |"
    yield "| --- | --- | --- | --- | --- |"
    for name, title in (("at_rest", "at rest"), ("busy", "pods come and go")):
        cost = run[name]
        figures = (
            cost["core_percent"],
            cost["pod_events_a_second"],
            cost["decisions_a_second"],
            "-" if cost["ms_a_decision"] is None else cost["ms_a_decision"],
        )
        yield f"| {title} | {' | '.join(map(str, figures))} |"
    yield ""
    yield (
        f"- start to first plan: {run['start_to_first_plan_s']} s, "
        f"{run['start_to_first_plan_cpu_s']} s of CPU"
    )
    yield f"- most memory: {run['most_mib']} MiB"
    yield f"- {run['lived']} pods came and ended; {_harm(run)}"
    yield ""


def _hour(run: Figures) -> Iterator[str]:
    minutes = run["seconds"] / 60
    yield f"## {minutes:g} minutes of virtual time: {run['nodes']:,} nodes, {run['gpus']:,} GPUs"
    yield ""
    yield (
        f"`{run['command']}` on {run['date']}: Python {run['versions']['python']}, mpslice "
        f"{run['versions']['mpslice']}; pods of {run['drawn_from']}. The machine's speed plays no "
        f"part; it took {run['took_s']} s."
    )
    yield ""
    over_time = run["gpus_over_time"]
    yield (
        f"- GPU memory over time: {over_time['used_percent']} % used, "
        f"{over_time['points_below_bound']} points below the offline bound{idle_words(over_time)}"
    )
    waits = _wait(run["created_to_bound"])
    yield f"- {run['pods']} pods; created → bound, without those there at first: {waits}"
    yield f"- {_harm(run)}; {len(run['problems'])} invariants broken"
    yield ""


def _made(run: Figures) -> str:
    machine, versions = run["machine"], run["versions"]
    return (
        f"`{run['command']}` on {run['date']}: {machine['cores']} cores, {machine['gib']} GiB, "
        f"Linux {machine['linux']}; Kubernetes {versions['kubernetes']}, etcd {versions['etcd']}, "
        f"Python {versions['python']}, mpslice {versions['mpslice']}; pods of {run['drawn_from']}. "
        f"{_others(machine)}"
    )


def _harm(run: Figures) -> str:
    return ", ".join(f"{count} {name}" for name, count in run["harm"].items())


def _run(run: Figures) -> Iterator[str]:
    yield f"## {run['nodes']:,} nodes, {run['gpus']:,} GPUs"
    yield ""
    yield _made(run)
    yield ""
    yield "| | pods | accepted | created → carved | created → bound | created → told why |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for part in run["parts"]:
        waits = (_wait(part[name]) for name in ("accepted", "carved", "bound", "told"))
        yield f"| {part['name']} | {part['pods']} | {' | '.join(waits)} |"
    yield ""
    for name, ratio in run["ratios"].items():
        yield f"- {name}: {ratio}" + ("" if name.endswith(" s") else " times the scheduler alone")
    yield from _gpus(run)
    yield ""
    yield from _costs(run)


def _others(machine: Figures) -> str:
    load, cores = machine["load_before"], machine["cores"]
    if load <= cores / 2:
        return "Nothing else ran."
    return (
        f"**Other work had the machine's cores too: its load was {load} on {cores} of them before "
        "this began, and all times are longer for it.**"
    )


def _gpus(run: Figures) -> Iterator[str]:
    over_time = run["gpus_over_time"]
    if over_time:
        yield (
            f"- GPU memory over time: {over_time['used_percent']} % used, "
            f"{over_time['points_below_bound']} points below the offline bound, "
            f"{over_time['stranded_percent']} % stranded{idle_words(over_time)}"
        )
    flow = run["flow"]
    yield (
        f"- in the API server's queues, {flow['served']} requests of mpslice waited "
        f"{flow['waited_seconds']:.1f} s in all, and {flow['refused']} were refused"
    )
    yield f"- harm: {_harm(run)}"


def _costs(run: Figures) -> Iterator[str]:
    parts = [part for part in run["parts"] if part["name"] in ("burst", "steady", "unplaceable")]
    yield "| a pod of | writes | of these | Events | lists again | looks before withdrawals |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for part in parts:
        of_these = ", ".join(f"{kind} {count}" for kind, count in part["writes"].items())
        events, lists = sum(part["events"].values()), sum(part["lists_again"].values())
        yield (
            f"| {part['name']} | {part['writes_in_all']} | {of_these} | {events:g} | {lists} | "
            f"{part['looks_before_withdrawals']} |"
        )
    yield ""
    part = next((part for part in parts if part["name"] == "steady"), parts[0])
    yield f"| {part['name']} | % of a core | CPU ms a pod | most MiB | requests a pod | KiB a pod |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, cost in part["components"].items():
        figures = (
            cost["core_percent"],
            cost["cpu_ms_a_pod"],
            run["memory"][name]["most_mib"],
            cost["requests_a_pod"],
            cost["kib_a_pod"],
        )
        yield f"| {name} | {' | '.join(map(str, figures))} |"
    yield ""


def _wait(wait: Figures) -> str:
    if wait["median_ms"] is None:
        return "-"
    return f"{wait['median_ms']:.0f} / {wait['p99_ms']:.0f}"


if __name__ == "__main__":
    PAGE.write_text(page(kept()))
