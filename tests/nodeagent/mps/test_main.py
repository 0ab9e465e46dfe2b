"""The command: what it cannot work with gets one line."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.mps.paths import PROGRAM, SERVER_PROGRAM
from tests.nodeagent.mps.machine import MpsMachine
from tests.nodeagent.nvml.driver import DRIVER_NOT_LOADED
from tests.waiting import DEADLINE

COMMAND = (sys.executable, "-m", "nodeagent.main", "mps")


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
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
        ("--mps-user=root", "--mps-user: 'root' is not a numeric user id"),
        ("--mps-root=run", "--mps-root: 'run' is not an absolute path"),
        ("--shm-size=much", "--shm-size: 'much' is not a quantity"),
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
def test_missing_program_of_the_driver_is_waited_for(mps_machine: MpsMachine, missing: str) -> None:
    program = mps_machine.bin / missing
    program.rename(mps_machine.folder / missing)
    mps_machine.start()
    mps_machine.want()

    async def comes_late() -> None:
        await mps_machine.until(lambda: mps_machine.has_logged("waiting for the driver"), "it told")
        assert mps_machine.has_logged(f"{missing} is not to be found")
        assert mps_machine.has_logged("runtimeClassName or driverRoot")
        (mps_machine.folder / missing).rename(program)
        await mps_machine.ready()

    asyncio.run(comes_late())


@needs_root
def test_driver_that_comes_late_is_waited_for(mps_machine: MpsMachine) -> None:
    mps_machine.driver.fail("nvmlInitWithFlags", DRIVER_NOT_LOADED)
    reaper = mps_machine.start()
    mps_machine.want()

    async def comes_late() -> None:
        await mps_machine.until(lambda: mps_machine.has_logged("waiting for the driver"), "it told")
        assert mps_machine.has_logged("the kernel module nvidia is not loaded")
        mps_machine.driver.recover()
        await mps_machine.ready()

    asyncio.run(comes_late())
    assert reaper.poll() is None


@needs_root
def test_root_that_cannot_be_made_is_named(mps_machine: MpsMachine) -> None:
    (mps_machine.folder / "file").touch()
    supervisor = mps_machine.start(f"--mps-root={mps_machine.folder / 'file'}")
    assert supervisor.wait(DEADLINE) == 1
    lines = mps_machine.log_file.read_text().splitlines()
    (line,) = [line for line in lines if not line.startswith("{")]
    assert f"--mps-root: {mps_machine.folder}/file/wanted cannot be made (Not a directory)" in line


def test_first_process_imports_nothing_heavy() -> None:
    """It lives as long as the container, and the supervisor is a process of its own."""
    probe = (
        "import sys, nodeagent.mps.main, nodeagent.mps.reaper; "
        "print([m for m in ('asyncio', 'pynvml', 'grpc', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stdout == "[]\n"
