"""`python -m nodeagent.verify` on stand-ins: what holds is shown, what does not is seen to fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodeagent.verdicts import parse
from nodeagent.verify.__main__ import table
from tests.compiling import compile_c
from tests.nodeagent.mps.machine import DEFAULT, EXCLUSIVE, ONE, MpsMachine
from tests.waiting import DEADLINE

LIBCUDA = Path(__file__).with_name("libcuda.c")
CHECKOUT = Path(__file__).resolve().parents[3]
FOLDERS = Path("/run")


@pytest.fixture
def memory(mps_machine: MpsMachine) -> Path:
    """Where programs tell their memory; every user may."""
    folder = mps_machine.folder / "memory"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def environment(machine: MpsMachine, memory: Path, *flags: str) -> dict[str, str]:
    libraries = machine.folder / "lib"
    libraries.mkdir(exist_ok=True)
    shutil.copy(machine.driver.library, libraries)
    compile_c(LIBCUDA, libraries / "libcuda.so.1", ["-fPIC", "-shared", *flags])
    return {
        **machine.environment,
        "LD_LIBRARY_PATH": str(libraries),
        "FAKE_CUDA": str(memory),
    }


def verify(environment: dict[str, str], *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "nodeagent.verify", *flags],
        env=environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=800,
    )


@pytest.fixture
def before() -> Iterator[set[str]]:
    """Folders of other proofs; afterwards there are no more."""
    names = folders()
    yield names
    assert folders() == names


def folders() -> set[str]:
    return {path.name for path in FOLDERS.glob("mps-*")}


@pytest.mark.usefixtures("before")
def test_every_claim_holds_where_cuda_honours_the_variables(
    mps_machine: MpsMachine, memory: Path
) -> None:
    left = mps_machine.folder / "agent"
    done = verify(environment(mps_machine, memory), "--output=json", f"--result-in={left}")
    report: dict[str, Any] = json.loads(done.stdout or "{}")
    assert report, done.stderr
    refuted = [entry for entry in report["findings"] if entry["holds"] is False]
    assert refuted == []
    assert (done.returncode, report["verified"]) == (0, True)
    claims = {entry["claim"]: entry for entry in report["findings"]}
    assert "48 × 1gb fill the GPU" in claims
    assert claims["managed memory beyond the limit"]["holds"] is None
    text = table(report)
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[-1].startswith("every claim holds; ")
    print(text)  # noqa: T201  what the page on MPS shows
    assert mps_machine.mode() == DEFAULT
    (file,) = left.iterdir()
    verdict = parse(file.read_text())
    assert (verdict.gpu, verdict.refuted) == (ONE, ())


@pytest.mark.usefixtures("before")
def test_limit_that_is_not_honoured_is_seen(mps_machine: MpsMachine, memory: Path) -> None:
    done = verify(environment(mps_machine, memory, "-DIGNORES_LIMIT"))
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "its limit and no more" in line]
    assert " FAIL " in line
    assert "claims are refuted" in done.stdout.splitlines()[-1]
    assert mps_machine.mode() == DEFAULT


def test_gpu_that_is_used_is_left_alone(mps_machine: MpsMachine, memory: Path) -> None:
    mps_machine.driver.process(ONE, os.getpid(), 512)
    done = verify(environment(mps_machine, memory))
    assert done.returncode == 2
    assert f"GPU 0 is used by processes {os.getpid()}" in done.stderr
    assert mps_machine.mode() is None


def test_gpu_that_is_not_there_is_named(mps_machine: MpsMachine, memory: Path) -> None:
    done = verify(environment(mps_machine, memory), "--gpu=7")
    assert done.returncode == 2
    assert f"'7' is not a GPU of this machine, which has 0 ({ONE})" in done.stderr


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_proof_that_is_ended_in_the_middle_leaves_nothing(
    mps_machine: MpsMachine, memory: Path, number: signal.Signals, before: set[str]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "nodeagent.verify"],
        env=environment(mps_machine, memory),
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as proof:
        wait(lambda: bool(list(memory.iterdir())), "a program has memory")
        assert mps_machine.mode() == EXCLUSIVE
        proof.send_signal(number)
        proof.wait(DEADLINE)
    wait(lambda: folders() == before, "its folder is gone")
    assert mps_machine.mode() == DEFAULT
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            assert str(mps_machine.bin) not in command_of(process)


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def wait(done: Any, what: str, seconds: float = DEADLINE) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"not in time: {what}"
        time.sleep(0.05)
