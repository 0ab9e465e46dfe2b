"""What a hostile container can do to its GPU's daemon and to the host, and what it cannot.

docs/mps.md has a row for each of these; each is tried with NVIDIA's own control program.
"""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from nodeagent.mps import pipes
from nodeagent.mps.decision import Policy
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.records import MpsState, Wanted, write_record
from nodeagent.mps.shm import Sweeper
from tests.nodeagent.mps.attacks import Container, is_mounted
from tests.nodeagent.mps.machine import ONE, STRANGER, USER, MpsMachine, is_running

BOTH = pytest.mark.parametrize("mps_suite", ["bookworm", "trixie"])
HOST_MIB = 8  # of the file system that stands in for the host's /run
IMPATIENT = Policy(USER, poll_seconds=0.1, grace_seconds=0.5)

FILL = "for f in control_lock nvidia-cuda-mps-control.pid x; do cat /dev/zero >> $f; done"
JAM = "timeout 2 cat /dev/urandom > log"


@pytest.fixture
def host(mps_machine: MpsMachine) -> Iterator[Path]:
    """The machine's MPS root on a small file system, as the host's /run is one."""
    root = mps_machine.root.root
    root.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={HOST_MIB}m,mode=0755", "host-run", str(root)]
    done = subprocess.run(["mount", *options], capture_output=True)
    if done.returncode != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "--make-shared", str(root)], check=True)  # as the chart's is
    yield root
    for gpu in mps_machine.root.gpus():
        pipes.take_away(mps_machine.root.pipe(gpu))
    subprocess.run(["umount", "--lazy", str(root)], check=True)


@BOTH
async def test_without_a_file_system_of_its_own_a_container_fills_the_hosts(
    mps_machine: MpsMachine, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack as it worked before, and works where nothing can be mounted."""
    monkeypatch.setattr(pipes, "mount_tmpfs", refuse)
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        container = Container(mps_machine, sealed=False, uid=USER)
        await asyncio.to_thread(container.sh, FILL)
        with pytest.raises(OSError, match="No space left"):
            write_record(mps_machine.root.wanted, ONE, Wanted(2 << 20, check="x" * 5000))


def refuse(directory: Path, options: str) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@BOTH
@pytest.mark.parametrize("uid", [USER, 0])
async def test_container_fills_its_own_pipe_directory_and_nothing_else(
    mps_machine: MpsMachine, host: Path, uid: int
) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        daemon = mps_machine.daemon()
        container = Container(mps_machine, sealed=False, uid=uid)
        done = await asyncio.to_thread(container.sh, FILL)
        assert "No space left" in done.stderr
        room = os.statvfs(mps_machine.root.pipe(ONE))
        assert room.f_blocks * room.f_frsize == 1 << 20
        free = os.statvfs(host)
        assert free.f_bavail * free.f_frsize > (HOST_MIB - 1) << 20
        await mps_machine.checked()
        assert mps_machine.daemon() == daemon
        os.kill(daemon or 0, 9)
        status = await mps_machine.checked("after its end")
        assert status.restarts == 1


@BOTH
async def test_pipe_directory_is_kept_for_its_containers_and_goes_with_the_gpu(
    mps_machine: MpsMachine, host: Path
) -> None:
    mps_machine.want()
    pipe = mps_machine.root.pipe(ONE)
    async with mps_machine.supervised():
        await mps_machine.ready()
        before = pipe.stat()
        os.kill(mps_machine.daemon() or 0, 9)
        await mps_machine.until(lambda: (s := mps_machine.status()) and s.restarts, "another")
        assert os.path.samestat(before, pipe.stat())
        mps_machine.hand_back()
        await mps_machine.until(lambda: mps_machine.status() is None, "the hand-back")
    assert not is_mounted(pipe)


@BOTH
@pytest.mark.parametrize("uid", [USER, STRANGER, 0])
async def test_sealed_container_has_the_socket_and_can_change_nothing(
    mps_machine: MpsMachine, uid: int
) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        container = Container(mps_machine, sealed=True, uid=uid)
        assert container.sh("ls -A").stdout.split() == ["control"]
        for attempt in ("touch x", "rm control", "mv control x", "chmod 0 control", ": > control"):
            done = await asyncio.to_thread(container.sh, attempt)
            assert done.returncode != 0
            assert done.stderr
        assert container.ask("get_server_list") == str(mps_machine.servers()[0])


@BOTH
async def test_sealed_container_is_served_by_each_daemon_that_comes(
    mps_machine: MpsMachine,
) -> None:
    """It mounted the directory when it started, and the socket in it is another one each time."""
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        container = Container(mps_machine, sealed=True, uid=USER)
        command = f"read go; exec {mps_machine.client_program} {USER}"
        client = await asyncio.to_thread(container.start, "sh", "-c", command)
        assert client.stdin is not None
        assert client.stdout is not None
        os.kill(mps_machine.daemon() or 0, 9)
        await mps_machine.checked("another daemon")
        client.stdin.write("go\n")
        client.stdin.flush()
        lines = [await asyncio.to_thread(client.stdout.readline) for _ in range(2)]
        client.kill()
        client.communicate()
        assert lines == ["waits\n", "served\n"]


@BOTH
@pytest.mark.parametrize("uid", [USER, STRANGER])
async def test_garbage_in_the_log_jams_an_open_daemon_which_is_told_of_and_released(
    mps_machine: MpsMachine, uid: int
) -> None:
    """MPS leaves this open, and so does `mps.pipe: open`."""
    mps_machine.want(used=True)
    async with mps_machine.supervised(IMPATIENT):
        await mps_machine.ready()
        container = Container(mps_machine, sealed=False, uid=uid)
        await asyncio.to_thread(container.sh, JAM)
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.DOWN), "it told")
        status = mps_machine.status()
        assert status is not None
        assert "does not answer" in status.message
        mps_machine.want(used=False, check="unused")
        await mps_machine.checked("unused")


@BOTH
async def test_sealed_container_cannot_write_into_the_log(mps_machine: MpsMachine) -> None:
    mps_machine.want(used=True)
    async with mps_machine.supervised(IMPATIENT):
        await mps_machine.ready()
        container = Container(mps_machine, sealed=True, uid=0)
        done = await asyncio.to_thread(container.sh, JAM)
        assert "Read-only file system" in done.stderr
        await mps_machine.checked(used=True)


@BOTH
async def test_root_without_capabilities_ends_an_open_daemon(mps_machine: MpsMachine) -> None:
    """MPS leaves this open: a socket for root lies beside the one for clients."""
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        container = Container(mps_machine, sealed=False, uid=0)
        daemon = mps_machine.daemon() or 0
        await asyncio.to_thread(container.ask, "quit -t 0")
        await mps_machine.until(lambda: not is_running(daemon), "its end")
        status = await mps_machine.checked()
        assert status.restarts == 1


@BOTH
async def test_root_in_a_sealed_container_does_not_end_the_daemon(
    mps_machine: MpsMachine,
) -> None:
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        container = Container(mps_machine, sealed=True, uid=0)
        daemon = mps_machine.daemon()
        for command in ("quit", "quit -t 0"):
            answer = await asyncio.to_thread(container.ask, command)
            assert answer == "Not enough privilege to execute quit command"
        assert (await mps_machine.checked()).restarts == 0
        assert mps_machine.daemon() == daemon


@BOTH
async def test_links_and_traps_in_the_pipe_directory_are_not_followed(
    mps_machine: MpsMachine, host: Path
) -> None:
    """Root in a container may put anything there; a new daemon finds none of it."""
    precious = host / "precious"
    precious.mkdir()
    (precious / "file").touch()
    mps_machine.want()
    async with mps_machine.supervised():
        await mps_machine.ready()
        container = Container(mps_machine, sealed=False, uid=0)
        traps = (
            "rm -f control_lock; mkfifo control_lock; rm -rf sealed; "
            f"ln -s {precious} sealed; ln -s {precious} link; mkdir -p a/b; ln -s {precious} a/b/c"
        )
        assert (await asyncio.to_thread(container.sh, traps)).returncode == 0
        os.kill(mps_machine.daemon() or 0, 9)
        await mps_machine.until(lambda: mps_machine.is_state(MpsState.DOWN), "the trap found")
        status = mps_machine.status()
        assert status is not None
        assert "sealed" in status.message
        assert (precious / "file").exists()


def test_directories_in_the_private_shm_are_no_gpus(tmp_path: Path) -> None:
    root = MpsRoot(tmp_path)
    (root.shared_memory / "pipe").mkdir(parents=True)
    os.mkfifo(root.shared_memory / "pipe" / "control_lock")
    root.pipe(ONE).mkdir(parents=True)
    (tmp_path / "GPU-link").symlink_to(root.shared_memory)
    assert root.gpus() == (ONE,)


EXCHANGE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
folder = os.open(sys.argv[1], os.O_RDONLY)
os.setgid(1000), os.setuid(1000)
os.mkdir("x", dir_fd=folder)
os.symlink(sys.argv[2], "y", dir_fd=folder)
for name in sys.argv[3:]:
    os.close(os.open(f"x/{name}", os.O_CREAT, dir_fd=folder))
print("ready", flush=True)
while True:
    libc.renameat2(folder, b"x", folder, b"y", 2)
"""


def test_sweep_follows_no_name_that_a_container_exchanges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder becomes a link to root's own between the look at it and the deletion in it."""
    monkeypatch.setattr("nodeagent.mps.shm._SWEEPS_IN_FOLDERS", 1)
    tmp_path.chmod(0o755)
    for path in tmp_path.parents:
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    shm, wanted = tmp_path / "shm", tmp_path / "wanted"
    shm.mkdir()
    shm.chmod(0o1777)
    wanted.mkdir(mode=0o700)
    names = [f"GPU-{number}" for number in range(20)]
    for name in names:
        (wanted / name).touch()
    command = [sys.executable, "-c", EXCHANGE, str(shm), str(wanted), *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
        try:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == "ready\n"
            sweeper = Sweeper(shm)
            for _ in range(60):
                sweeper.sweep()
                for place, name in product(("x", "y"), names):  # its bait, again
                    with suppress(OSError):
                        (shm / place / name).touch()
        finally:
            attacker.kill()
    assert sorted(os.listdir(wanted)) == sorted(names)


def test_sweep_is_bounded_whatever_containers_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodeagent.mps.shm._MOST_ENTRIES", 100)
    deep = tmp_path
    for _ in range(60):
        deep = deep / "d"
        deep.mkdir()
    os.mkfifo(tmp_path / "fifo")
    for number in range(200):
        (tmp_path / f"f{number}").touch()
    sweeper = Sweeper(tmp_path)
    sweeper.sweep()
    assert 0 < sweeper.sweep() <= 100
