"""A program's wall clock is put forward and back while it runs; its monotonic clock is not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.clocks import WallClock, build

_TELLS = """
import datetime, sys, time
for _ in sys.stdin:
    told = time.time(), datetime.datetime.now(datetime.UTC).timestamp(), time.monotonic()
    print(*told, flush=True)
"""


@pytest.mark.parametrize("shift", [600, -600])
def test_wall_clock_is_put_while_the_program_runs(tmp_path: Path, shift: int) -> None:
    clock = WallClock(build(tmp_path), tmp_path / "shift")
    command = [sys.executable, "-c", _TELLS]
    with subprocess.Popen(
        command,
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as program:
        assert program.stdin
        assert program.stdout
        for step, expected in ((0, 0), (shift, shift), (-shift, 0)):
            clock.put_forward(step)
            before, began = time.time(), time.monotonic()
            program.stdin.write("\n")
            wall, date, monotonic = map(float, program.stdout.readline().split())
            after, ended = time.time(), time.monotonic()
            assert before <= wall - expected <= after
            assert before - 1e-3 <= date - expected <= after
            assert began <= monotonic <= ended
        program.stdin.close()
