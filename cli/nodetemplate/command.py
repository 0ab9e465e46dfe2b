"""The flags of `kubectl mpslice node-template`, and what it runs."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from cli.connect import add_flags, add_node_label, name, with_session
from mpslice.flags import FlagParser, choice, slice_limit, slice_size
from mpslice.gpus import MAX_SLICES_PER_GPU

if TYPE_CHECKING:
    from mpslice.kube.session import Session

_DESCRIPTION: Final = """\
Prints how cluster-autoscaler and Karpenter are told which slices a new node would offer: tags of
Auto Scaling groups and scale sets, labels of node pools, annotations of MachineDeployments, a
NodeOverlay. The new node is like an existing one; each size counts as often as it fits on
that node with nothing else on it.

The sizes are those that pods ask for and those that stand on the node, or those of --size.

Examples:
  kubectl mpslice node-template --like=gpu-1 --for=aws
  kubectl mpslice node-template --like=gpu-1 --size=10gb --size=20gb --output=yaml
  kubectl mpslice node-template --like=gpu-1 --for=karpenter -o json"""

_ALL: Final = "all"


def add_command(commands: Any) -> None:
    """Adds the command to those of the program."""
    parser: FlagParser = commands.add_parser(
        "node-template",
        help="print what autoscalers have to know of a new node's slices",
        description=_DESCRIPTION,
    )
    parser.flag("--like", _like, "", "a node of the kind that would be added", "NODE")
    autoscalers = choice(_ALL, "aws", "azure", "gce", "clusterapi", "karpenter")
    parser.flag("--for", autoscalers, _ALL, "only for this autoscaler")
    parser.repeatable("--size", slice_size, "a size that a new node is to offer", "SIZE")
    parser.flag("--output", choice("table", "json", "yaml"), "table", "how to print it", short="-o")
    limit = str(MAX_SLICES_PER_GPU)
    text = "the most slices on one GPU, where the planner's Deployment cannot be read"
    parser.flag("--max-slices-per-gpu", slice_limit, limit, text, "COUNT")
    units = "what a gb is, 10^9 bytes or 2^30, where the node has no NodeLayout"
    parser.flag("--memory-unit", choice("GB", "GiB"), "GB", units)
    add_flags(parser, namespaces="count only the sizes that pods of this namespace ask for")
    add_node_label(parser)
    parser.set_defaults(run=_run)


def _like(text: str) -> str:
    return name(text) if text else ""


def _run(options: Namespace) -> int:
    from cli.errors import UnusableInput
    from cli.nodetemplate.show import ask, shown

    if not options.like:
        raise UnusableInput("--like is missing; write for example --like=gpu-1")
    chosen: str = getattr(options, "for")

    async def show(kube: Session) -> int:
        offer = await ask(kube, options)
        shown(offer, "" if chosen == _ALL else chosen, options.output)
        return 0

    return with_session(options, show)
