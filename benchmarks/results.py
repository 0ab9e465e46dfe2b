"""`python -m benchmarks.results`: writes RESULTS.md from the figures kept in benchmarks/results.

Nothing in it is written by hand but what other projects have published of themselves.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

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

_KUBERNETES: Final = (
    "https://github.com/kubernetes/kubernetes/blob/master/test/integration/scheduler_perf"
)
_KUEUE: Final = (
    "https://github.com/kubernetes-sigs/kueue/blob/main/test/performance/scheduler/configs/baseline"
)
_KAI: Final = "https://github.com/NVIDIA/KAI-Scheduler/tree/main/docs/scale-tests"
_NOS: Final = "https://github.com/nebuly-ai/nos/tree/main/helm-charts/nos"
_PEERS: Final = (
    (
        "kube-scheduler",
        "plain pods on 5,000 nodes: at least 680 a second",
        f"{_KUBERNETES}/misc/performance-config.yaml (SchedulingBasic, 5000Nodes_10000Pods)",
    ),
    (
        "kube-scheduler",
        "beside 10,000 gated pods, on one node: at least 910 a second",
        f"{_KUBERNETES}/misc/performance-config.yaml (SchedulingWhileGated)",
    ),
    (
        "kube-scheduler",
        "extended resources on 5,000 nodes: at least 180 a second",
        f"{_KUBERNETES}/misc/performance-config.yaml (SchedulingWithExtendedResource)",
    ),
    (
        "Kueue",
        "15,000 workloads without pods: at most 425 s, 351 s on average",
        f"{_KUEUE}/rangespec.yaml, generator.yaml",
    ),
    (
        "KAI Scheduler",
        "4,000 jobs of one GPU on 500 simulated nodes: 398 s",
        f"{_KAI} (example-results.json)",
    ),
    (
        "nos",
        "a change of slices: 10 s without new pods, then 5 s a node",
        f"{_NOS} (batchWindowIdleSeconds, devicePlugin.configUpdateDelaySeconds)",
    ),
)

_PEERS_HEAD: Final = """\
## Published by others

Of other machines and other work, and so no comparison; what is promised there is a floor.

| project | figure | source |
| --- | --- | --- |
"""


def page(runs: list[Figures]) -> str:
    """The whole page; runs by their size."""
    parts = [_HEAD, *("\n".join(_run(run)) for run in sorted(runs, key=lambda run: run["nodes"]))]
    peers = "".join(f"| {name} | {figure} | {source} |\n" for name, figure, source in _PEERS)
    return "\n".join((*parts, _PEERS_HEAD + peers))


def kept() -> list[Figures]:
    """The figures of every run in the folder."""
    return [json.loads(file.read_text()) for file in sorted(FOLDER.glob("cluster-*.json"))]


def _run(run: Figures) -> Iterator[str]:
    machine, versions = run["machine"], run["versions"]
    yield f"## {run['nodes']} nodes, {run['gpus']} GPUs"
    yield ""
    yield (
        f"`{run['command']}` on {run['date']}: {machine['cores']} cores, {machine['gib']} GiB, "
        f"Linux {machine['linux']}; Kubernetes {versions['kubernetes']}, etcd {versions['etcd']}, "
        f"Python {versions['python']}, mpslice {versions['mpslice']}; pods of {run['drawn_from']}. "
        f"{_others(machine)}"
    )
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
            f"{over_time['stranded_percent']} % stranded"
        )
    flow = run["flow"]
    yield (
        f"- in the API server's queues, {flow['served']} requests of mpslice waited "
        f"{flow['waited_seconds']:.1f} s in all, and {flow['refused']} were refused"
    )
    yield f"- harm: {', '.join(f'{count} {name}' for name, count in run['harm'].items())}"


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
    yield "| while steady | % of a core | CPU ms a pod | most MiB | requests a pod | KiB a pod |"
    yield "| --- | --- | --- | --- | --- | --- |"
    steady = next(part for part in parts if part["name"] == "steady")
    for name, cost in steady["components"].items():
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
