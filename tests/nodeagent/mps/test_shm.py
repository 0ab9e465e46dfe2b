"""The private /dev/shm, mounted in a mount namespace of its own so that this machine keeps its."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.mps.records import MpsState
from nodeagent.mps.shm import identity
from tests.nodeagent.mps.machine import MpsMachine
from tests.waiting import DEADLINE

UNSHARE = ("unshare", "--mount", "--propagation", "private")

needs_mounts = pytest.mark.skipif(
    subprocess.run([*UNSHARE, "true"], capture_output=True).returncode != 0,
    reason="mounting needs root",
)

PROGRAM = """
import os, sys
from pathlib import Path
from nodeagent.mps.shm import identity, provide
directory, dev_shm = Path(sys.argv[1], "shm"), Path(sys.argv[1], "dev-shm")
dev_shm.mkdir()
provide(directory, 16, dev_shm)
(directory / "kept").touch()
first = identity(directory)
provide(directory, 16, dev_shm)
same = identity(directory) == identity(dev_shm) == first
size = os.statvfs(directory)
mode = oct(directory.stat().st_mode & 0o7777)
mounts = [l.split() for l in Path("/proc/self/mounts").read_text().splitlines()]
kind, options = next((m[2], m[3]) for m in mounts if m[1] == str(directory))
print(same, (dev_shm / "kept").exists(), size.f_blocks * size.f_frsize >> 20, mode, kind)
print(sorted({"nosuid", "nodev", "noexec"} & set(options.split(","))))
"""


@needs_mounts
def test_it_is_a_bounded_tmpfs_and_stays_what_it_is(tmp_path: Path) -> None:
    command = [*UNSHARE, sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "True True 16 0o1777 tmpfs"
    assert second == "['nodev', 'noexec', 'nosuid']"


@needs_mounts
async def test_daemons_and_servers_have_it_as_theirs(mps_machine: MpsMachine) -> None:
    mps_machine.start("--host-ipc=false", "--shm-size=32Mi", within=UNSHARE)
    mps_machine.want()
    status = await mps_machine.ready()
    assert status.shm
    for pid in (mps_machine.daemon(), *mps_machine.servers()):
        assert identity(Path(f"/proc/{pid}/root/dev/shm")) == status.shm
    room = os.statvfs(f"/proc/{mps_machine.daemon()}/root/dev/shm")
    assert room.f_blocks * room.f_frsize >> 20 == 32
    assert identity(Path("/dev/shm")) != status.shm


async def test_where_nothing_can_be_mounted_that_is_said(mps_machine: MpsMachine) -> None:
    process = mps_machine.start(
        "--host-ipc=false",
        within=("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"),
    )
    assert await asyncio.to_thread(process.wait, DEADLINE) == 1
    assert "--host-ipc=false:" in mps_machine.log_file.read_text()
    assert "mountPropagation Bidirectional" in mps_machine.log_file.read_text()
    assert not mps_machine.is_state(MpsState.READY)
