"""The C compiler, for the few stand-ins that have to be libraries or programs of their own."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.plugin import do_without
from tests.waiting import DEADLINE

_FLAGS = ("-Wall", "-Wextra", "-Werror", "-O1")


def compile_c(source: Path, output: Path, flags: Sequence[str] = ()) -> None:
    """Compiles `source` to `output`; the test is skipped where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        do_without("cc", "no C compiler (cc) to make its stand-in with; install gcc and libc6-dev")
    command = [compiler, *_FLAGS, "-o", os.fspath(output), os.fspath(source), *flags]
    subprocess.run(command, check=True, timeout=DEADLINE)
