"""The command: what it cannot work with gets one line."""

import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

from nodeagent.mps.paths import PROGRAM, SERVER_PROGRAM
from tests.nodeagent.mps.machine import MpsMachine

COMMAND = (sys.executable, "-m", "nodeagent.main", "mps")


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def line_of(done: "subprocess.CompletedProcess[str]", status: int) -> str:
    """The one line that is no log's, which are JSON."""
    assert done.returncode == status, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if not text.startswith("{")]
    assert line.startswith("mpslice-nodeagent mps: ")
    return line


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A directory with both of the driver's programs, as far as their names go."""
    for name in (PROGRAM, SERVER_PROGRAM):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return str(tmp_path)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="checked only once it runs as root")


def test_help_names_every_flag() -> None:
    done = run("--help")
    assert done.returncode == 0
    for flag in (
        "--mps-root",
        "--mps-user",
        "--host-ipc",
        "--shm-size",
        "--compute-mode",
        "--on-fault",
        "--driver-root",
        "--container-driver-root",
    ):
        assert flag in done.stdout


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--compute-mode=shared", "--compute-mode: 'shared' is not one of exclusive, keep"),
        ("--on-fault=ignore", "--on-fault: 'ignore' is not one of recover, report"),
        ("--mps-user=root", "--mps-user: 'root' is no numeric user id"),
        ("--mps-root=run", "--mps-root: 'run' is no absolute path"),
        ("--shm-size=much", "--shm-size: 'much' is no quantity"),
    ],
)
def test_unusable_flag_is_named(flag: str, line: str) -> None:
    assert line in line_of(run(flag), 2)


@needs_root
def test_root_that_leaves_no_room_for_a_socket_is_named(programs: str) -> None:
    done = run(f"--mps-root=/{'x' * 60}", PATH=programs)
    assert "--mps-root: the socket path /xxx" in line_of(done, 1)


@needs_root
@pytest.mark.parametrize("missing", [PROGRAM, SERVER_PROGRAM])
def test_missing_program_of_the_driver_is_named(programs: str, missing: str) -> None:
    Path(programs, missing).unlink()
    line = line_of(run(PATH=programs), 1)
    assert f"{missing} is not to be found" in line
    assert "runtimeClassName or driverRoot" in line


@needs_root
@pytest.mark.skipif(find_library("nvidia-ml") is not None, reason="this machine has NVML")
def test_missing_nvml_is_named(programs: str) -> None:
    done = run("--mps-root=/nowhere", PATH=programs)
    assert "libnvidia-ml.so.1 cannot be loaded" in line_of(done, 1)


@needs_root
def test_root_that_cannot_be_made_is_named(mps_machine: MpsMachine) -> None:
    (mps_machine.folder / "file").touch()
    supervisor = mps_machine.start(f"--mps-root={mps_machine.folder / 'file'}")
    assert supervisor.wait(30) == 1
    lines = mps_machine.log_file.read_text().splitlines()
    (line,) = [line for line in lines if not line.startswith("{")]
    assert f"--mps-root: {mps_machine.folder}/file/wanted cannot be made (Not a directory)" in line


def test_first_process_imports_nothing_heavy() -> None:
    """It lives as long as the container, and the supervisor is a process of its own."""
    probe = (
        "import sys, nodeagent.mps.main, nodeagent.mps.reaper; "
        "print([m for m in ('asyncio', 'pynvml', 'grpc', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n"
