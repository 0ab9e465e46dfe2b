"""Shows the cluster's state once, or on every change until it is interrupted."""

import json
import logging
from collections.abc import Sequence
from contextlib import aclosing, nullcontext
from datetime import datetime

from cli.observe import LastTrouble, Observed, Observer, judged
from cli.rights import Denied
from cli.status.draw import draw
from cli.status.picture import picture
from cli.status.report import report
from cli.terminal import Line, Screen, Span, Terminal, inert, line
from cli.why.draw import draw_lacking


async def show(
    observer: Observer, terminal: Terminal, output: str, namespace: str, *, watch: bool
) -> None:
    """Prints the state as `table`, `wide` or `json`; with `watch` until cancelled.

    Raises a KubeError, or UnusableInput where mpslice is not installed.
    """
    if not watch:
        said, lacking = _said(await observer.look(), terminal, output, namespace, indent=2)
        terminal.print([*said, *lacking])
        return
    on_screen = output != "json" and terminal.width is not None
    log = logging.getLogger("mpslice")
    trouble = LastTrouble(observer.nudge)
    log.addHandler(trouble)
    try:
        with Screen(terminal) if on_screen else nullcontext() as screen:
            async with aclosing(observer.follow()) as pictures:
                async for observed in pictures:
                    said, lacking = _said(observed, terminal, output, namespace)
                    if screen is None:
                        terminal.print([*said, *lacking])
                        continue
                    words, trouble.words = trouble.words, ""
                    screen.show([_head(observed.now, words), line(), *said, *lacking])
    finally:
        log.removeHandler(trouble)


def _head(now: datetime, trouble: str) -> Line:
    at = f"{now.astimezone():%H:%M:%S}"
    if trouble:
        return line(Span(f"the cluster could not be watched at {at}: {inert(trouble)}", "bad"))
    return line(Span(f"as of {at}; ctrl-c ends it", "faint"))


def _said(
    observed: Observed,
    terminal: Terminal,
    output: str,
    namespace: str,
    *,
    indent: int | None = None,
) -> tuple[list[Line], list[Line]]:
    decision = judged(observed)
    seen = picture(observed, decision, namespace)
    if output == "json":
        return [line(json.dumps(report(seen), indent=indent))], []
    lines = draw(seen, terminal.glyphs, terminal.width, wide=output == "wide")
    return lines, draw_lacking(seen.lacking, _consequence(seen.lacking))


def _consequence(lacking: Sequence[Denied]) -> str:
    """Says what is not shown because rights are missing."""
    resources = {each.right.resource for each in lacking}
    said = []
    if "nodelayouts.mpslice.io" in resources:
        said.append("GPUs and their slices are not shown")
    if "nodes" in resources:
        said.append("node pools and the state of nodes are not shown")
    if "pods" in resources:
        said.append("pods of other namespaces are not shown")
    said.append("the reasons are those that the planner last wrote")
    return ", ".join(said)
