"""The driver from a root file system that is not this image's, such as the host's.

Root file systems of Debian releases with NVIDIA's control program from Debian's package inside; the
C library of trixie is newer than bookworm's, which the image is made from.
"""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hack.cluster import mps
from hack.cluster.errors import Unavailable
from nodeagent.driver.files import Driver, within
from nodeagent.mps.paths import PROGRAM, SERVER_PROGRAM
from tests.cluster.plugin import do_without
from tests.nodeagent.mps.machine import CLIENT, MpsMachine
from tests.nodeagent.nvml.driver import SONAME
from tests.waiting import DEADLINE

LIBRARIES = "usr/lib/x86_64-linux-gnu"


@pytest.fixture(params=["bookworm", "trixie"])
def root(request: pytest.FixtureRequest, tmp_path: Path, nvml_library: Path) -> Path:
    """A Debian's files, its control program, and the stand-ins that a driver would bring."""
    suite = str(request.param)
    try:
        system = mps.root_file_system(suite)
        control = mps.control_program(suite)
    except Unavailable as error:
        do_without("mps", str(error))
    root = tmp_path / "root"
    subprocess.run(["cp", "--archive", "--link", system, root], check=True)
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(control, root / "usr/bin" / PROGRAM)
    # As Debian's packages lay it out: absolute links by way of /etc/alternatives.
    current, alternatives = root / LIBRARIES / "nvidia/current", root / "etc/alternatives"
    for folder in (current, alternatives):
        folder.mkdir(parents=True, exist_ok=True)
    for name in (SONAME, "libcuda.so.1"):
        shutil.copy(nvml_library, current / f"{name}.550")
        (current / name).symlink_to(f"{name}.550")
        (alternatives / f"glx--{name}").symlink_to(f"/{LIBRARIES}/nvidia/current/{name}")
        (root / LIBRARIES / name).symlink_to(f"/etc/alternatives/glx--{name}")
    return root


@pytest.fixture
def machine(mps_machine: MpsMachine, root: Path) -> MpsMachine:
    """Its own programs and NVML are gone: all comes from the root."""
    server = mps_machine.bin / SERVER_PROGRAM
    shutil.copy(server, root / "usr/bin" / SERVER_PROGRAM)
    server.unlink()
    (mps_machine.bin / PROGRAM).unlink()
    assert mps_machine.client_program.name == CLIENT
    for path in (root, *root.parents):
        if path.is_relative_to(root.parents[3]) and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o055)
    return mps_machine


def test_daemons_run_with_the_drivers_own_files_alone(machine: MpsMachine, root: Path) -> None:
    machine.start("--driver-root=/host", f"--container-driver-root={root}")
    machine.want()
    asyncio.run(machine.ready())
    daemon = machine.daemon()
    assert daemon
    environment = Path(f"/proc/{daemon}/environ").read_text()
    assert f"LD_LIBRARY_PATH={machine.root.driver}/lib" in environment
    assert str(root) not in environment
    links = machine.root.driver / "lib"
    assert {name.split(".so")[0] for name in os.listdir(links)} == {"libcuda", "libnvidia-ml"}
    assert all(link.resolve().is_file() for link in links.iterdir())
    mapped = Path(f"/proc/{daemon}/maps").read_text()
    assert str(root / LIBRARIES / "libc.so") not in mapped


@pytest.mark.parametrize("root", ["trixie"], indirect=True)
def test_the_hosts_c_library_on_the_path_fails(root: Path) -> None:
    """As it was before, with a C library that is newer than the program loader of the image."""
    if os.confstr("CS_GNU_LIBC_VERSION") != "glibc 2.36":
        pytest.skip("this machine's C library is not that of the image")
    done = subprocess.run(
        [root / "usr/bin" / PROGRAM],
        env={"LD_LIBRARY_PATH": f"{root}/{LIBRARIES}", "CUDA_MPS_PIPE_DIRECTORY": "/nowhere"},
        input=b"get_server_list\n",
        capture_output=True,
        timeout=DEADLINE,
    )
    assert done.returncode != 1  # what the program ends with where there is no daemon
    assert b"GLIBC" in done.stderr


def test_links_mean_the_drivers_root(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "absolute").symlink_to("/a/file")
    (tmp_path / "a" / "up").symlink_to("../../../a/file")
    (tmp_path / "loop").symlink_to("/loop")
    (tmp_path / "folder").symlink_to("/a")
    for path in ("absolute", "a/up", "folder/file", "folder/up"):
        assert within(tmp_path, path) == tmp_path / "a" / "file"
    assert within(tmp_path, "loop") is None
    assert within(tmp_path, "a/nothing") is None


def test_links_follow_a_driver_that_was_replaced(tmp_path: Path) -> None:
    here, links = tmp_path / "here", tmp_path / "links"
    driver = Driver(here=here)
    assert driver.environment({"PATH": "/bin"}, links) == {"PATH": "/bin"}
    (here / "usr/bin").mkdir(parents=True)
    (here / "usr/lib64").mkdir()
    for name in (PROGRAM, "python3"):
        (here / "usr/bin" / name).touch()
    for name in ("libcuda.so.1", "libc.so.6", "libnvidia-ml.so.1"):
        (here / "usr/lib64" / name).touch()
    assert driver.environment({"PATH": "/bin", "A": "b"}, links) == {
        "A": "b",
        "PATH": f"{links}/bin:/bin",
        "LD_LIBRARY_PATH": f"{links}/lib",
    }
    assert os.listdir(links / "bin") == [PROGRAM]
    assert sorted(os.listdir(links / "lib")) == ["libcuda.so.1", "libnvidia-ml.so.1"]
    (here / "usr/lib64" / "libnvidia-ml.so.1").unlink()
    driver.environment({}, links)
    assert os.listdir(links / "lib") == ["libcuda.so.1"]
