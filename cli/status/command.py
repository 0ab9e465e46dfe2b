"""The flags of `kubectl mpslice status`, and what it runs."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from cli.connect import add_all_namespaces, add_flags, add_node_label, with_session
from mpslice.flags import FlagParser, choice

if TYPE_CHECKING:
    from mpslice.kube.session import Session


_DESCRIPTION: Final = """\
Shows a cluster's GPUs as bars with their slices, totals by node pool and namespace, and the pods
that wait for a slice, each with the reason and its place in the queue.

It shows what you may see. Without -n and -A these are the pods of all namespaces, or of the
context's own where you may list no others.

Examples:
  kubectl mpslice status --namespace=team-a
  kubectl mpslice status --watch
  kubectl mpslice status --output=json"""


def add_command(commands: Any) -> None:
    """Adds the command to those of the program."""
    parser: FlagParser = commands.add_parser(
        "status",
        help="show the GPUs with their slices, totals, and which pods wait and why",
        description=_DESCRIPTION,
    )
    parser.add_argument("-w", "--watch", action="store_true", help="draw it again on every change")
    shapes = "wide shows every GPU and pod, whatever their number"
    parser.flag("--output", choice("table", "wide", "json"), "table", shapes, short="-o")
    add_flags(parser, namespaces="show only the pods of this namespace")
    add_all_namespaces(parser)
    add_node_label(parser)
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from cli.observe import observer_of
    from cli.status.show import show
    from cli.terminal import Terminal

    async def ask(kube: Session) -> int:
        chosen = "" if options.all_namespaces else options.namespace or ""
        observer = await observer_of(kube, options, chosen or kube.namespace)
        await show(observer, Terminal.of(), options.output, chosen, watch=options.watch)
        return 0

    with contextlib.suppress(KeyboardInterrupt):  # how a person ends a watch
        return with_session(options, ask)
    return 0
