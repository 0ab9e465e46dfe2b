"""What the kernel tells of processes, whatever they call themselves."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.mps import processes
from nodeagent.mps.processes import is_server, servers_left, uid_of

RENAMED = """
import sys, time
open("/proc/self/comm", "wb").write(bytes([0xFF, 0xFE]))
print("renamed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def renamed() -> Iterator[int]:
    """A process whose name is no text, as any user may give it one."""
    command = [sys.executable, "-c", RENAMED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"renamed\n"
        yield process.pid
        process.kill()


def test_process_with_a_name_that_is_no_text_is_passed_over(renamed: int, tmp_path: Path) -> None:
    assert servers_left(tmp_path) == ()
    assert uid_of(renamed) == os.geteuid()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (b"/usr/bin/nvidia-cuda-mps-server\0", True),
        (b"python3\0/x/nvidia-cuda-mps-server\0", True),
        (b"python3\0train.py\0--server=nvidia-cuda-mps-server\0", False),
        (b"", False),
    ],
)
def test_mps_server_is_told_by_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: bytes, *, expected: bool
) -> None:
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(command)
    assert is_server(7) is expected
    assert not is_server(8)
