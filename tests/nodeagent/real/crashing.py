"""An agent that is killed at an await of its own choosing; run as a module, it makes such agents.

Every line of its standard input is one agent's flags; it forks one from a process that has imported
everything already, because a test walks through dozens of them.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Collection, Coroutine, Generator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

CHECKOUT = Path(__file__).parents[3]
OURS = tuple(f"{CHECKOUT / folder}{os.sep}" for folder in ("nodeagent", "mpslice"))
AGENTS_MODULES = (
    "nodeagent.main",
    "nodeagent.controller",
    "nodeagent.metrics",
    "nodeagent.simulation",
    "nodeagent.agent",
    "mpslice.kube.session",
    "mpslice.ops",
)
_PR_SET_PDEATHSIG = 1

Site = tuple[str, ...]
"""Where a coroutine waits: our functions and lines, from the outermost."""


class Walk:
    """Kills this process at the first place where a coroutine waits and that is not `survived`,
    once the file `armed` is there."""

    def __init__(self, survived: Collection[str], armed: Path, report: Path) -> None:
        self._survived = survived
        self._armed = armed
        self._report = report
        self._outermost = ""
        self._stage = 0  # one layout takes the same steps several times over

    def waits(self, work: Coroutine[Any, Any, Any]) -> None:
        if not self._armed.exists():
            return
        frames = site_of(work)
        if frames[0] != self._outermost:
            self._outermost = frames[0]
            self._stage += 1
        site = f"{self._stage}. {' > '.join(frames)}"
        if site not in self._survived:
            draft = self._report.with_suffix(".draft")
            draft.write_text(site)
            draft.rename(self._report)  # who waits for it must not read half of it
            os.kill(os.getpid(), signal.SIGKILL)


class Stepped:
    """An awaitable that hands on whatever the work awaits, and tells the walk before each wait."""

    def __init__(self, walk: Walk, work: Coroutine[Any, Any, Any]) -> None:
        self._walk = walk
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:  # PEP 380's expansion of `yield from`
        send: Any = self._work.send
        value: Any = None
        while True:
            try:
                waited_for = send(value)
            except StopIteration as stop:
                return stop.value
            self._walk.waits(self._work)
            try:
                value, send = (yield waited_for), self._work.send
            except BaseException as error:  # noqa: BLE001  it is the work's to handle
                value, send = error, self._work.throw


def site_of(work: Any) -> Site:
    """Our own frames of a coroutine that is waiting."""
    site: list[str] = []
    while work is not None:
        frame: FrameType | None = getattr(work, "cr_frame", None) or getattr(work, "gi_frame", None)
        if frame is not None and _is_ours(frame.f_code):
            site.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        work = getattr(work, "cr_await", None) or getattr(work, "gi_yieldfrom", None)
    return tuple(site)


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(OURS)


def _become_agent(order: dict[str, Any]) -> None:
    """In the forked process: an agent as any other, but for its end."""
    from nodeagent import main
    from nodeagent.layout.executor import Executor

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stderr.fileno())
    if order["doomed"]:
        walk = Walk(order["survived"], Path(order["armed"]), Path(order["report"]))
        converge = Executor.converge

        async def stepped(self: Executor, wanted: Any) -> Any:
            return await Stepped(walk, converge(self, wanted))

        Executor.converge = stepped  # type: ignore[method-assign]
    os._exit(main.main(order["flags"]))


def _serve() -> None:
    for module in AGENTS_MODULES:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the killed
    _say("ready")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become_agent(json.loads(line))
        _say(str(pid))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
