"""The figures as tables for people."""

from collections.abc import Iterator

from benchmarks.cluster.figures import Figures

_COMPONENT = "{:20} {:>8} {:>10} {:>7} {:>10} {:>9}"
_WAIT = "{:16} {:>6} {:>17} {:>19} {:>19} {:>19}"


def lines(figures: Figures) -> Iterator[str]:
    """What is printed of a run."""
    yield f"{figures['nodes']} nodes, {figures['gpus']} GPUs; milliseconds are median / p99"
    yield _WAIT.format("", "pods", "accepted", "created → carved", "→ bound", "→ told why")
    for part in figures["parts"]:
        waits = (_wait(part[name]) for name in ("accepted", "carved", "bound", "told"))
        yield _WAIT.format(part["name"], part["pods"], *waits)
    for name, ratio in figures["ratios"].items():
        yield f"{name}: {ratio}" + ("" if name.endswith(" s") else " × the scheduler alone")
    for part in figures["parts"]:
        if part["name"] in ("burst", "steady", "unplaceable"):
            yield from _costs(part)
    yield from _rest(figures)


def _costs(part: Figures) -> Iterator[str]:
    yield ""
    title = f"{part['name']}, {part['seconds']:.0f} s"
    yield _COMPONENT.format(title, "% core", "CPU ms/pod", "MiB", "requests/pod", "KiB/pod")
    for name, cost in part["components"].items():
        yield _COMPONENT.format(
            name,
            cost["core_percent"],
            cost["cpu_ms_a_pod"],
            cost["mib"],
            cost["requests_a_pod"],
            cost["kib_a_pod"],
        )
    kinds = ", ".join(f"{kind} {count}" for kind, count in part["writes"].items())
    yield f"writes a pod: {part['writes_in_all']} ({kinds})"
    events = ", ".join(f"{kind} {count}" for kind, count in part["events"].items())
    yield f"Events a pod: {events or 'none'}"
    lists = ", ".join(f"{kind} {count}" for kind, count in part["lists_again"].items())
    yield (
        f"lists again: {lists or 'none'}, watches again: {part['watches_again']}; "
        f"looks before withdrawals: {part['looks_before_withdrawals']}"
    )
    if part["refused_requests"]:
        yield f"refused requests: {part['refused_requests']}"


def _rest(figures: Figures) -> Iterator[str]:
    yield ""
    over_time = figures["gpus_over_time"]
    if over_time:
        yield (
            f"GPU memory over time: {over_time['used_percent']} % used, "
            f"{over_time['points_below_bound']} points below the offline bound, "
            f"{over_time['stranded_percent']} % stranded{idle_words(over_time)}"
        )
    memory = (f"{name} {mib['most_mib']}" for name, mib in figures["memory"].items())
    yield f"most memory, MiB: {', '.join(memory)}"
    flow = figures["flow"]
    yield (
        f"in the API server's queues: {flow['served']} requests of mpslice waited "
        f"{flow['waited_seconds']:.1f} s in all, {flow['refused']} were refused"
    )
    yield "harm: " + ", ".join(f"{count} {name}" for name, count in figures["harm"].items())


def idle_words(over_time: Figures) -> str:
    """How long memory stands idle between two pods; nothing where that was not measured."""
    if over_time.get("seconds_between_pods") is None:
        return ""
    return (
        f"; {over_time['percent_changing_hands_a_second']} % of it changes hands each second, idle "
        f"for {over_time['seconds_between_pods']} s between two pods"
    )


def _wait(wait: Figures) -> str:
    if wait["median_ms"] is None:
        return "-"
    return f"{wait['median_ms']:.0f} / {wait['p99_ms']:.0f}"
