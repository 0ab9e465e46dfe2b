"""Runs the whole suite: the tests on the machine's one node, and all the others.

`python -m hack.suite [ARGUMENT …]`: the arguments go to pytest. The tests on the node have to
follow one another, and wait for kubelet and Helm most of the time. With four cores or more the
others run beside them; with fewer they come first, since both would wait for each other's work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

# A cache of its own: `--lf` means the last failures of both, and each would overwrite the other's.
_ON_THE_NODE: Final = ("-m", "node", "-o", "cache_dir=.pytest_cache/node")
_OTHERS: Final = ("-m", "not node", "--numprocesses", "2", "--dist", "loadfile")
_CORES_FOR_BOTH: Final = 4
_NOTHING_SELECTED: Final = 5  # pytest.ExitCode.NO_TESTS_COLLECTED


def main(arguments: Sequence[str]) -> int:
    """The exit status: pytest's own, the worse of the two."""
    pytest = (sys.executable, "-m", "pytest")
    node, others = [*pytest, *_ON_THE_NODE, *arguments], [*pytest, *_OTHERS, *arguments]
    if len(os.sched_getaffinity(0)) < _CORES_FOR_BOTH:
        statuses = [_end(subprocess.Popen(half)) for half in (others, node)]
    else:
        statuses = _side_by_side(node, others)
    ran = [status for status in statuses if status != _NOTHING_SELECTED]
    return max(map(abs, ran), default=_NOTHING_SELECTED)


def _side_by_side(node: Sequence[str], others: Sequence[str]) -> list[int]:
    """The statuses; what the tests on the node print comes once they have ended."""
    with tempfile.TemporaryFile("w+") as output:
        quiet = subprocess.Popen(node, stdout=output, stderr=subprocess.STDOUT)
        statuses = [_end(subprocess.Popen(others))]
        if quiet.poll() is None:
            print("The tests on the node go on; what they print comes at their end.", flush=True)
        statuses.append(_end(quiet))
        output.seek(0)
        sys.stdout.writelines(output)
    return statuses


def _end(process: subprocess.Popen[bytes]) -> int:
    """Waits for it; at Ctrl-C, which it gets as well, until it has tidied up."""
    while True:
        with suppress(KeyboardInterrupt):
            return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
