"""Runs the whole suite: the tests on the machine's one node beside all the others.

`python -m hack.suite [ARGUMENT …]`: the arguments go to pytest. The tests on the node have to
follow one another, but wait for kubelet and Helm most of the time; the others compute meanwhile.
What the former print comes once they have ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

# A cache of its own: `--lf` means the last failures of both, and each would overwrite the other's.
_ON_THE_NODE: Final = ("-m", "node", "-o", "cache_dir=.pytest_cache/node")
_OTHERS: Final = ("-m", "not node", "--numprocesses", "2", "--dist", "loadfile")
_NOTHING_SELECTED: Final = 5  # pytest.ExitCode.NO_TESTS_COLLECTED


def main(arguments: Sequence[str]) -> int:
    """The exit status: pytest's own, the worse of the two."""
    pytest = (sys.executable, "-m", "pytest")
    with tempfile.TemporaryFile("w+") as output:
        node = subprocess.Popen(
            [*pytest, *_ON_THE_NODE, *arguments], stdout=output, stderr=subprocess.STDOUT
        )
        others = subprocess.Popen([*pytest, *_OTHERS, *arguments])
        statuses = [_end(others)]
        if node.poll() is None:
            print("The tests on the node go on; what they print comes at their end.", flush=True)
        statuses.append(_end(node))
        output.seek(0)
        sys.stdout.writelines(output)
    ran = [status for status in statuses if status != _NOTHING_SELECTED]
    return max(map(abs, ran), default=_NOTHING_SELECTED)


def _end(process: subprocess.Popen[bytes]) -> int:
    """Waits for it; at Ctrl-C, which it gets as well, until it has tidied up."""
    while True:
        with suppress(KeyboardInterrupt):
            return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
