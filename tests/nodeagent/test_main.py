"""The executable: what it cannot work with gets one line, and help comes at once."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from ctypes.util import find_library
from pathlib import Path

import pytest

from nodeagent.main import NVIDIAS_VARIABLE, parser, settings_of
from tests.nodeagent.nvml.driver import FakeDriver
from tests.waiting import DEADLINE

COMMAND = (sys.executable, "-m", "nodeagent.main")


def run(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**os.environ, **(environment or {})},
    )


@pytest.fixture
def gpus(tmp_path: Path) -> Path:
    file = tmp_path / "gpus.yaml"
    file.write_text("gpus: [{uuid: GPU-1, memoryMiB: 1000}]")
    return file


def test_help_names_every_flag_of_the_contract() -> None:
    done = run("--help")
    assert done.returncode == 0
    for flag in (
        "--node-name",
        "--kubeconfig",
        "--device-plugin-dir",
        "--pod-resources-socket",
        "--simulated-gpus",
        "--mps-root",
        "--mps-user",
        "--host-ipc",
        "--memory-unit",
        "--reserved-memory",
        "--compute",
        "--device-list-strategy",
        "--pass-device-specs",
        "--cdi",
        "--cdi-dir",
        "--driver-root",
        "--ignored-xids",
        "--ops-listen",
    ):
        assert flag in done.stdout


def test_flags_are_parsed_without_anything_heavy() -> None:
    """So that --help answers in well under 0.3 s."""
    probe = (
        "import sys, nodeagent.main; nodeagent.main.parser(); "
        "print([m for m in ('grpc', 'aiohttp', 'kubernetes_asyncio', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--node-name=n", "--host-ipc=perhaps"],
            "--host-ipc: 'perhaps' is neither true nor false",
        ),
        (
            ["--node-name=n", "--ignored-xids=1,ecc"],
            "--ignored-xids: '1,ecc' is not a list of Xids",
        ),
        (
            ["--node-name=n", "--device-list-strategy=cdi"],
            "--device-list-strategy: 'cdi' is not one of envvar, cdi-cri",
        ),
        (["--node-name=n", "--compute=fair"], "--compute: 'fair' is not one of shared, proport"),
        (["--node-name=n", "--memory-unit=MB"], "--memory-unit: 'MB' is not one of GB, GiB"),
        (
            ["--node-name=n", "--reserved-memory=much"],
            "--reserved-memory: 'much' is not a quantity",
        ),
        (["--node-name=n", "--mps-user=root"], "--mps-user: 'root' is not a numeric user id"),
        (["--node-name=n", "--mps-root=run"], "--mps-root: 'run' is not an absolute path"),
        (
            ["--node-name=n", "--device-plugin-dir="],
            "--device-plugin-dir: '' is not an absolute path",
        ),
        (
            ["--node-name=n", "--mps-users=1000"],
            "unknown flag --mps-users; did you mean --mps-user?",
        ),
        ([], "--node-name: is required"),
    ],
)
def test_unusable_flag_is_named(arguments: list[str], line: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def refused(
    status: int, line: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> None:
    done = run("--node-name=n", "--ops-listen=127.0.0.1:0", *arguments, environment=environment)
    assert done.returncode == status
    (printed,) = done.stderr.splitlines()
    assert printed.startswith("mpslice-nodeagent: ")
    assert line in printed


def waits(line: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """The agent says that it waits, and why, and goes on until it is asked to end."""
    flags = ["--node-name=n", "--ops-listen=127.0.0.1:0", f"--device-plugin-dir={folder}"]
    with subprocess.Popen(
        [*COMMAND, *flags],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as agent:
        assert agent.stderr is not None
        said = agent.stderr.readline()
        assert agent.poll() is None
        agent.terminate()
        assert agent.wait(DEADLINE) == 0
    assert "waiting for the driver" in said
    assert line in said


@pytest.mark.skipif(find_library("nvidia-ml") is not None, reason="this machine has a driver")
def test_absent_driver_is_waited_for(short_path: Path) -> None:
    waits(
        "libnvidia-ml.so.1 cannot be loaded; set the chart's runtimeClassName or driverRoot",
        short_path,
    )


def test_driver_that_is_not_loaded_is_waited_for(driver: FakeDriver, short_path: Path) -> None:
    driver.add("driver absent")
    waits("the kernel module nvidia is not loaded", short_path, driver.environment)


def test_nvidias_list_of_xids_adds_to_ours(gpus: Path) -> None:
    values = parser().parse(["--node-name=n", "--ignored-xids=48"])
    ignored = settings_of(values, {NVIDIAS_VARIABLE: "63"}).ignored_xids
    assert {13, 48, 63} <= ignored.numbers
    assert settings_of(values, {NVIDIAS_VARIABLE: "all"}).ignored_xids.all


def test_unusable_list_of_nvidias_is_said(short_path: Path) -> None:
    refused(
        1,
        "$DP_DISABLE_HEALTHCHECKS: 'ecc' is not a list of Xids",
        f"--device-plugin-dir={short_path}",
        environment={NVIDIAS_VARIABLE: "ecc"},
    )


def test_missing_kubelet_directory_is_named(gpus: Path) -> None:
    refused(
        1,
        "--device-plugin-dir: /nowhere is no directory",
        f"--simulated-gpus={gpus}",
        "--device-plugin-dir=/nowhere",
    )


def test_unreadable_simulation_file_is_named(tmp_path: Path, short_path: Path) -> None:
    refused(
        1,
        f"simulated GPUs: {tmp_path}: Is a directory",
        f"--simulated-gpus={tmp_path}",
        f"--device-plugin-dir={short_path}",
    )


def test_simulation_file_and_field_are_named(tmp_path: Path, short_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("gpus: [{uuid: GPU-1, memoryMiB: lots}]")
    refused(
        1,
        f"simulated GPUs: {bad}: gpus[0].memoryMiB: 'lots'",
        f"--simulated-gpus={bad}",
        f"--device-plugin-dir={short_path}",
    )


@pytest.mark.parametrize("flag", ["--pod-resources-socket", "--mps-root"])
def test_socket_path_that_is_too_long_is_named(gpus: Path, short_path: Path, flag: str) -> None:
    refused(
        1,
        f"{flag}: the socket path /{'x' * 100}",
        f"--simulated-gpus={gpus}",
        f"--device-plugin-dir={short_path}",
        f"{flag}=/{'x' * 100}/y.sock",
    )


def test_unusable_credentials_are_named(gpus: Path, short_path: Path) -> None:
    refused(
        1,
        "kubeconfig /nowhere",
        f"--simulated-gpus={gpus}",
        f"--device-plugin-dir={short_path}",
        f"--pod-resources-socket={short_path}/p.sock",
        "--kubeconfig=/nowhere",
    )


def test_stops_at_once_when_told_so_while_everything_is_away(
    gpus: Path, short_path: Path, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "users: [{name: u, user: {}}]\n"
    )
    arguments = (
        "--node-name=n",
        "--ops-listen=127.0.0.1:0",
        f"--simulated-gpus={gpus}",
        f"--device-plugin-dir={short_path}",
        f"--pod-resources-socket={short_path}/p.sock",
        f"--kubeconfig={kubeconfig}",
    )
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # it follows the API server, in vain
        started = time.monotonic()
        process.terminate()
        assert process.wait(DEADLINE) == 0
    assert "following failed" in first
    assert time.monotonic() - started < 20
