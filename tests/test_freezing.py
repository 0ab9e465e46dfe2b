"""A process that is frozen does nothing until it is thawed."""

import subprocess
import sys

from tests.freezing import _is_frozen, freeze, thaw

COUNTING = """
import threading
def count():
    while True:
        pass
for _ in range(3):
    threading.Thread(target=count, daemon=True).start()
print("counts", flush=True)
count()
"""


def test_every_thread_has_stopped_when_it_is_frozen() -> None:
    command = [sys.executable, "-c", COUNTING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "counts\n"
        for _ in range(20):
            assert not _is_frozen(process.pid)
            freeze(process.pid)
            assert _is_frozen(process.pid)
            thaw(process.pid)
        process.kill()
