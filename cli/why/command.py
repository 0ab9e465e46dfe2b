"""The flags of `kubectl mpslice why`, and what it runs."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from cli.connect import add_flags, add_node_label, with_session
from cli.errors import UnusableInput
from mpslice.flags import FlagParser, choice

if TYPE_CHECKING:
    from mpslice.kube.session import Session

_WELL, _UNWELL = 0, 1
_CONSEQUENCE: Final = "the answer is what the planner wrote, without what each node lacks"


_DESCRIPTION: Final = """\
Says why a pod waits: what stands in the way on each node, what would help, and the pod's place in
the queue; which rule refuses the pods of a workload; why a node's GPUs are not used. With rights in
one namespace only, it shows what the planner wrote on the pod.

Examples:
  kubectl mpslice why train-0 --namespace=team-a
  kubectl mpslice why deployment/server
  kubectl mpslice why node/n3

Exit status: 0 nothing stands in the way; 1 something does; 2 the answer is unknown."""


def add_command(commands: Any) -> None:
    """Adds the command to those of the program."""
    parser: FlagParser = commands.add_parser(
        "why",
        help="say why a pod waits, why a workload's pods never came, why a node is not used",
        description=_DESCRIPTION,
    )
    parser.add_argument("target", metavar="NAME|KIND/NAME", help="a pod, a node, or a workload")
    shapes = "wide gives each node a row of its own"
    parser.flag("--output", choice("table", "wide", "json"), "table", shapes, short="-o")
    add_flags(parser, namespaces="the namespace of the pod or workload, else the context's")
    add_node_label(parser)
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    from datetime import UTC, datetime

    from cli.observe import observer_of
    from cli.terminal import Terminal
    from cli.why.answer import as_json
    from cli.why.ask import ask, target
    from cli.why.draw import draw, draw_lacking

    try:
        wanted = target(options.target)
    except ValueError as error:
        raise UnusableInput(f"{options.target!r:.300} {error}") from error

    async def run(kube: Session) -> int:
        namespace = options.namespace or kube.namespace
        observer = await observer_of(kube, options, namespace)
        answer = await ask(kube, observer, wanted, namespace)
        if options.output == "json":
            print(json.dumps(as_json(answer), indent=2))
        else:
            lines = draw(answer, datetime.now(UTC), wide=options.output == "wide")
            if answer.lacking:
                lines += [(), *draw_lacking(answer.lacking, _CONSEQUENCE)]
            Terminal.of().print(lines)
        return _WELL if answer.state.is_well else _UNWELL

    return with_session(options, run)
