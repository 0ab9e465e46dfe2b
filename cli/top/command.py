"""The flags of `kubectl mpslice top`, and what it runs."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cli.connect import add_all_namespaces, add_flags, name, with_session
from mpslice.flags import FlagParser, choice

if TYPE_CHECKING:
    from mpslice.kube.session import Session

_DESCRIPTION: Final = """\
Shows the GPU memory that pods use now and at their peak beside what they asked for, the largest
waste first. It asks the node agents through the API server, which takes the right to get
pods/proxy where they run; or a Prometheus that scrapes them.

The peak is the most since the agent of the node started, or within --window from Prometheus.

Examples:
  kubectl mpslice top --by=workload --namespace=team-a
  kubectl mpslice top --by=namespace --prometheus=http://localhost:9090 --window=7d"""

_WINDOW: Final = re.compile(r"(?:[0-9]+(?:ms|s|m|h|d|w|y))+", re.ASCII)


def add_command(commands: Any) -> None:
    """Adds the command to those of the program."""
    parser: FlagParser = commands.add_parser(
        "top",
        help="show the memory used and its peak beside what was asked, largest waste first",
        description=_DESCRIPTION,
    )
    rows = choice("pod", "workload", "namespace")
    parser.flag("--by", rows, "pod", "a row for each pod, workload or namespace")
    parser.flag("--output", choice("table", "json"), "table", "how to print it", short="-o")
    parser.flag("--prometheus", url, "", "ask this Prometheus instead of the agents", "URL")
    parser.flag("--window", window, "24h", "how far back Prometheus looks for peaks", "DURATION")
    parser.flag(
        "--agents-namespace", name, "mpslice-system", "the namespace of the node agents", "NAME"
    )
    add_flags(parser, namespaces="show only the pods of this namespace")
    add_all_namespaces(parser)
    parser.set_defaults(run=_run)


def url(text: str) -> str:
    """Reads an http or https URL; raises ValueError for another text."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not a URL; write for example http://localhost:9090")
    return text


def window(text: str) -> str:
    """Reads a duration as PromQL writes it; raises ValueError for another text."""
    if _WINDOW.fullmatch(text) is None:
        raise ValueError("is not a duration; write for example 24h or 7d")
    return text


def _run(options: Namespace) -> int:
    from cli.terminal import Terminal
    from cli.top.show import as_json, draw, gather
    from cli.top.usage import By

    async def ask(kube: Session) -> int:
        top = await gather(
            kube,
            By(options.by),
            "" if options.all_namespaces else options.namespace or "",
            kube.namespace,
            options.agents_namespace,
            options.prometheus or "",
            options.window,
        )
        if options.output == "json":
            print(json.dumps(as_json(top), indent=2))
        else:
            Terminal.of().print(draw(top))
        return 0

    return with_session(options, ask)
