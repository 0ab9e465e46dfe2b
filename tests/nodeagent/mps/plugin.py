"""Fixtures: NVIDIA's control program with a stand-in for its server, and a machine of fake GPUs."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import mps
from hack.cluster.errors import Unavailable
from tests.cluster.plugin import do_without
from tests.nodeagent.mps.machine import OTHER_DRIVER, MpsMachine, build_stand_ins
from tests.nodeagent.nvml.driver import FakeDriver


@pytest.fixture(scope="session")
def mps_stand_ins() -> Iterator[Path]:
    """A folder with the compiled stand-ins, which every user may enter."""
    if os.geteuid() != 0:
        do_without("mps", "MPS daemons and their servers of other users need root")
    folder = Path(tempfile.mkdtemp(prefix="mps-"))
    folder.chmod(0o755)
    build_stand_ins(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def mps_suite() -> str:
    """The Debian release whose control program is used, or OTHER_DRIVER; a test may choose."""
    return "trixie"


@pytest.fixture
def mps_machine(mps_stand_ins: Path, mps_suite: str, driver: FakeDriver) -> Iterator[MpsMachine]:
    """Two GPUs, NVIDIA's control program, and nothing running yet."""
    try:
        control = mps.control_program("trixie" if mps_suite == OTHER_DRIVER else mps_suite)
    except Unavailable as error:
        do_without("mps", str(error))
    folder = Path(tempfile.mkdtemp(prefix="m-"))
    folder.chmod(0o755)
    machine = MpsMachine(folder, control, mps_stand_ins, driver)
    if mps_suite == OTHER_DRIVER:
        machine.use_other_driver()
    try:
        yield machine
    finally:
        machine.end()
        shutil.rmtree(folder)
