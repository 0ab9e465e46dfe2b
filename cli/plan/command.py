"""The command `plan`: its flags, and what is done with them."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cli.connect import add_flags, add_node_label
from cli.drawing.folding import and_more
from cli.errors import UnusableInput
from cli.plan.hardware import gpu_rule
from cli.plan.options import Options, more_nodes, read_values
from cli.reading.selectors import parse_selector
from mpslice.flags import FlagParser, boolean, choice, slice_limit, user_id
from mpslice.gpus import MemoryUnit

if TYPE_CHECKING:
    from cli.plan.outcome import Outcome
    from cli.progress import Progress
    from cli.reading.installed import Installed
    from cli.reading.manifests import Read
    from mpslice.kube.session import Session

PLACED: Final = 0
SOME_NOT: Final = 1

_DESCRIPTION: Final = """\
Decides offline, from Nodes, NodeLayouts, Pods and workloads in manifests, which
pods admission refuses, which slices are carved and where each pod goes.

Exit status: 0 all pods that ask for slices have a place; 1 some are refused or
have none, or nothing asks for a slice; 2 unusable input."""
_EXAMPLES: Final = """\
Examples:
  kubectl mpslice plan --live -f my-pods.yaml
  kubectl get nodes,pods -A -o json | kubectl mpslice plan -f - -f my-pods.yaml \\
      --assume-label nvidia.com/gpu.present=true
  kubectl mpslice plan -f nodes.yaml -f pods/ --values values.yaml --add-node gpu-1=2"""


def add_command(commands: Any) -> None:
    """Adds the command to those of `kubectl mpslice`."""
    plan: FlagParser = commands.add_parser(
        "plan",
        help="decide offline what the cluster would do with the manifests given",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    text = "YAML or JSON file, folder, or - for standard input"
    plan.repeatable("--filename", str, text, "FILE", short="-f")
    plan.add_argument("--live", action="store_true", help="read the cluster, too")
    add_flags(plan, namespaces="the namespace of manifests that name none, else default")
    formats = choice("table", "wide", "json", "yaml", "name")
    text = "wide: every GPU and pod; name: the pods that have a place"
    plan.flag("--output", formats, "table", text, short="-o")
    _add_assumptions(plan)
    _add_settings(plan)
    plan.set_defaults(run=run)


def _add_assumptions(plan: FlagParser) -> None:
    text = "plan as if the nodes with these labels were handed over"
    plan.flag("--assume-label", parse_selector, "", text, "SELECTOR")
    text = "plan as if other device plugins, and the pods with whole GPUs, had left the nodes"
    plan.flag("--assume-empty", boolean, "false", text)
    text = "the GPUs of nodes that no label describes, such as gpu=a100=2x40960MiB"
    plan.repeatable("--gpu", gpu_rule, text, "SELECTOR=COUNTxMEMORY")
    text = "plan with more nodes, empty ones like the one named"
    plan.repeatable("--add-node", more_nodes, text, "LIKE[=COUNT]")


def _add_settings(plan: FlagParser) -> None:
    text = "the chart's values, so that admission and planner decide as installed"
    plan.repeatable("--values", str, text, "FILE")
    plan.flag("--mps-user", user_id, "1000", "the uid that the MPS servers serve")
    plan.flag("--memory-unit", choice("GB", "GiB"), "GB", "what a gb is: 10^9 bytes or 2^30")
    text = "the most slices on one GPU"
    plan.flag("--max-slices-per-gpu", slice_limit, "48", text, "COUNT")
    add_node_label(plan)


def run(options: Namespace) -> int:
    """Plans and prints; the exit status. Raises UnusableInput, and a KubeError with --live."""
    # Imported here, so that --help and version answer at once.
    import gc

    from cli.plan.offline import plan_offline
    from cli.progress import Progress
    from cli.reading.manifests import read_manifests

    if not options.filename and not options.live:
        raise UnusableInput("plan: give -f FILE, --live, or both; see kubectl mpslice plan --help")
    if not options.live:
        _warn_of_cluster_flags(options)
    # The process ends within seconds and keeps nearly all objects: collecting only costs time.
    gc.disable()
    chosen = _options(options)
    with Progress() as progress:
        progress.begin("reading files")
        read = read_manifests(options.filename)
        if options.live:
            read, context, installed = _with_cluster(read, options, progress)
            chosen = replace(chosen, namespace=chosen.namespace or context)
            if not options.values:
                chosen = _as_installed(chosen, installed, options.given)
        outcome = plan_offline(read, chosen, progress)
        progress.begin("drawing")
        show = _shown(options.output, outcome)
    show()
    _tell(outcome)
    return PLACED if outcome.is_all_placed else SOME_NOT


def _warn_of_cluster_flags(options: Namespace) -> None:
    for flag in ("kubeconfig", "context", "as", "as_group"):
        if flag in options.given and getattr(options, flag):
            name = flag.replace("_", "-")
            text = f"--{name} changes nothing: without --live no cluster is read"
            print(f"kubectl mpslice: {text}", file=sys.stderr)


def _options(options: Namespace) -> Options:
    """The chart's values, and over them the flags that were given."""
    chosen = read_values(options.values)
    given: frozenset[str] = options.given
    settings = chosen.settings
    if "mps_user" in given:
        settings = replace(settings, mps_user=options.mps_user)
    return replace(
        chosen,
        settings=settings,
        unit=MemoryUnit[options.memory_unit] if "memory_unit" in given else chosen.unit,
        max_slices_per_gpu=options.max_slices_per_gpu
        if "max_slices_per_gpu" in given
        else chosen.max_slices_per_gpu,
        label=options.node_label if "node_label" in given else chosen.label,
        namespace=options.namespace or "",
        assume_label=options.assume_label,
        assume_empty=options.assume_empty,
        rules=tuple(options.gpu),
        more=tuple(options.add_node),
    )


def _as_installed(chosen: Options, installed: Installed, given: frozenset[str]) -> Options:
    """The settings of the cluster's webhook and planner, and over them the flags given."""
    settings = installed.settings or chosen.settings
    if "mps_user" in given:
        settings = replace(settings, mps_user=chosen.settings.mps_user)
    label, limit = installed.label, installed.max_slices_per_gpu
    return replace(
        chosen,
        settings=settings,
        label=chosen.label if "node_label" in given or label is None else label,
        max_slices_per_gpu=chosen.max_slices_per_gpu
        if "max_slices_per_gpu" in given or limit is None
        else limit,
    )


def _with_cluster(
    read: Read, options: Namespace, progress: Progress
) -> tuple[Read, str, Installed]:
    """Returns the cluster's objects before the files', the namespace, and what is installed."""
    from cli.connect import with_session
    from cli.reading.installed import read_installed
    from cli.reading.live import read_cluster

    found: list[tuple[Read, str, Installed]] = []

    async def ask(kube: Session) -> int:
        live = await read_cluster(kube, progress)
        found.append((live, kube.namespace, await read_installed(kube)))
        return PLACED

    with_session(options, ask)
    ((live, namespace, installed),) = found
    manifests = (*live.manifests, *read.manifests)
    return replace(read, manifests=manifests, warnings=live.warnings), namespace, installed


def _shown(output: str, outcome: Outcome) -> Callable[[], None]:
    """Returns a function that prints the outcome; the slow work is done before it is called."""
    if output in ("json", "yaml"):
        from cli.plan.report import json_text, report, yaml_text

        text = (json_text if output == "json" else yaml_text)(report(outcome))
        return lambda: print(text)
    from cli.terminal import Terminal, inert, line

    terminal = Terminal.of()
    if output == "name":
        names = [line(inert(placement.pod.key)) for placement in outcome.placed]
        return lambda: terminal.print(names)
    from cli.plan.table import draw

    lines = draw(outcome, terminal, wide=output == "wide")
    return lambda: terminal.print(lines)


def _tell(outcome: Outcome) -> None:
    """Prints on standard error what readers of every output format should see."""
    from cli.terminal import inert

    if outcome.skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.skipped.items()))
        print(f"skipped, since they do not bear on slices: {inert(counts)}", file=sys.stderr)
    for text in _no_slice(outcome):
        print(f"kubectl mpslice: {inert(text)}", file=sys.stderr)


def _no_slice(outcome: Outcome) -> Iterator[str]:
    """`1 pod asks for no slice: default/p (gpu-10gb looks like nvidia.com/gpu-10gb)`."""
    from cli.plan.outcome import ASKS_FOR_NONE

    said: dict[str, list[str]] = {}
    for notice in outcome.unplanned:
        if notice.reason == ASKS_FOR_NONE:
            said.setdefault(notice.object.removeprefix("Pod "), []).append(notice.message)
    if said:
        pods = [f"{pod} ({'; '.join(messages)})" for pod, messages in said.items()]
        what = "1 pod asks" if len(pods) == 1 else f"{len(pods)} pods ask"
        yield f"{what} for no slice: {and_more(pods)}"
    elif not outcome.asking and not outcome.rejected and not outcome.unplanned:
        yield "no pod of the input asks for a slice, so nothing is planned"
