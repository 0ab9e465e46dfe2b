"""`kubectl mpslice`: the command line. Each command imports what it needs when it is called."""

import contextlib
import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from mpslice import __version__
from mpslice.errors import MpsliceError
from mpslice.flags import FlagParser, choice, label, slice_limit, user_id

_PLACED, _SOME_NOT, _UNUSABLE = 0, 1, 2
_SOME_HOLD = 1
_KUBECONFIG_HELP = "else $KUBECONFIG, else ~/.kube/config, else the pod's own account"
_NODE_LABEL = "nos.nebuly.com/gpu-partitioning=mps"


def parser() -> FlagParser:
    """The commands and their flags."""
    top = FlagParser("kubectl mpslice", "GPU memory slices for pods: what is, and what would be.")
    top.add_version()
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    plan = commands.add_parser(
        "plan",
        help="decide offline what the cluster would do with the manifests given",
        description=(
            "Decides offline, from Nodes, NodeLayouts, Pods and workloads in manifests, which\n"
            "pods admission refuses, which slices are carved and where each pod goes.\n\n"
            "Exit status: 0 all pods are placed; 1 some are refused or not placed;\n"
            "2 unusable input."
        ),
    )
    plan.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="FILE",
        help="YAML or JSON file, folder, or - for standard input; may be given several times",
    )
    plan.flag("--output", choice("table", "json"), "table", "how to print the result", short="-o")
    plan.flag("--mps-user", user_id, "1000", "the uid that the MPS servers serve")
    plan.flag("--memory-unit", choice("GB", "GiB"), "GB", "what a gb is: 10^9 bytes or 2^30")
    plan.flag("--max-slices-per-gpu", slice_limit, "48", "at most so many slices on one GPU")
    plan.flag(
        "--node-label",
        label,
        _NODE_LABEL,
        "the label that hands a node's GPUs to mpslice",
        "KEY=VALUE",
    )
    plan.set_defaults(run=_plan)
    status = commands.add_parser(
        "status",
        help="show the cluster's GPUs with their slices, and which pods wait and why",
        description="Shows a cluster's GPUs as bars with their slices, and what waits and why.",
    )
    status.add_argument("-w", "--watch", action="store_true", help="draw it again on every change")
    status.flag("--kubeconfig", str, "", _KUBECONFIG_HELP, "FILE")
    status.flag(
        "--node-label",
        label,
        _NODE_LABEL,
        "the label that hands a node's GPUs to mpslice",
        "KEY=VALUE",
    )
    status.set_defaults(run=_status)
    holders = commands.add_parser(
        "holders",
        help="list the containers that hold a slice",
        description=(
            "Lists the containers that hold a slice, before a node is drained or the chart is\n"
            "uninstalled.\n\nExit status: 0 there are none; 1 there are some; 2 it cannot be told."
        ),
    )
    holders.flag("--node", str, "", "of this node alone", "NAME")
    holders.flag("--kubeconfig", str, "", _KUBECONFIG_HELP, "FILE")
    holders.set_defaults(run=_holders)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exits with the command's status."""
    options = parser().parse(arguments)
    try:
        sys.exit(options.run(options))
    except MpsliceError as error:
        print(f"kubectl mpslice: {error}", file=sys.stderr)
        sys.exit(_UNUSABLE)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; nothing is left to say, not even at exit
        sys.exit(_UNUSABLE)


def _plan(options: Namespace) -> int:
    # Imported here, so that --help and version answer at once; none of it is a Kubernetes client.
    import gc

    from cli.offline import Options, run
    from mpslice.gpus import MemoryUnit

    # A process of seconds that keeps nearly all it makes: collecting would only cost time.
    gc.disable()
    outcome = run(
        options.filename,
        Options(
            mps_user=options.mps_user,
            unit=MemoryUnit[options.memory_unit],
            max_slices_per_gpu=options.max_slices_per_gpu,
            label=options.node_label,
        ),
    )
    if options.output == "json":
        from cli.report import report

        print(json.dumps(report(outcome), indent=2))
    else:
        from rich.console import Console

        from cli.render import render

        render(outcome, Console(highlight=False))
    return _SOME_NOT if outcome.rejected or outcome.unplaced else _PLACED


def _status(options: Namespace) -> int:
    import asyncio

    from cli.status import show

    with contextlib.suppress(KeyboardInterrupt):  # how a person ends a watch
        asyncio.run(show(_kubeconfig(options), options.node_label, watch=options.watch))
    return _PLACED


def _holders(options: Namespace) -> int:
    import asyncio

    from cli.holders import find

    found = asyncio.run(find(_kubeconfig(options), options.node or ""))
    for holder in found:
        print(holder)
    return _SOME_HOLD if found else _PLACED


def _kubeconfig(options: Namespace) -> str | None:
    """None for the credentials that Kubernetes mounts into a pod."""
    default = os.path.expanduser("~/.kube/config")
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and not os.path.exists(default)
    chosen: str | None = options.kubeconfig or os.environ.get("KUBECONFIG")
    return os.path.expanduser(chosen) if chosen else None if in_pod else default


def _version(_options: Namespace) -> int:
    print(__version__)
    return _PLACED


if __name__ == "__main__":
    main()
