"""Stands in for the container's first process, for a supervisor that runs within a test.

`python -m tests.nodeagent.mps.nursery FD ROOT` keeps daemons as the reaper does, and answers on the
inherited socket FD until that is closed.
"""

import os
import select
import socket
import sys
from pathlib import Path

from nodeagent.mps.children import Children
from nodeagent.mps.launch import daemon_command
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.settings import MpsSettings

EVERY = 0.01  # seconds between two looks for children that have ended


def main(number: int, root: Path) -> None:
    settings = MpsSettings(MpsRoot(root))
    children = Children(lambda gpu: daemon_command(settings, gpu))
    with socket.socket(fileno=number) as line:
        while True:
            ready, _, _ = select.select([line], [], [], EVERY)
            reap(children)
            if ready:
                request = line.recv(4096)
                if not request:
                    return
                line.send(children.answer(request))


def reap(children: Children) -> None:
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            children.ended(ended[0], os.waitstatus_to_exitcode(ended[1]))
    except ChildProcessError:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
