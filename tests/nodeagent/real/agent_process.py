"""The agent's process as tests start, kill and replace it, and the files that it is given."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from hack.cluster.controlplane import ControlPlane
from hack.cluster.node import Node
from nodeagent.gpus.processes import PROC, pod_uid
from tests.nodeagent.conftest import A100, gpu
from tests.waiting import DEADLINE


class AgentProcess:
    """One agent at a time on the node, with two simulated GPUs of its own file."""

    def __init__(self, plane: ControlPlane, node: Node, folder: Path) -> None:
        self.log = folder / "agent.log"
        self._gpus = folder / "gpus.yaml"
        self.write_gpus({}, {})
        self.flags = [
            f"--node-name={node.name}",
            f"--kubeconfig={plane.kubeconfig}",
            f"--device-plugin-dir={node.device_plugin_dir}",
            f"--pod-resources-socket={node.pod_resources_socket}",
            f"--simulated-gpus={self._gpus}",
            f"--mps-root={folder / 'mps'}",
            "--ops-listen=127.0.0.1:0",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def write_gpus(self, *entries: dict[str, Any]) -> None:
        """The simulation file, whole or not at all; one entry a GPU, from the first."""
        gpus = [{"uuid": gpu(n + 1), **A100, **entry} for n, entry in enumerate(entries)]
        draft = self._gpus.with_suffix(".draft")
        draft.write_text(yaml.safe_dump({"gpus": gpus}))
        draft.rename(self._gpus)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """The one before must be gone, or be about to end by itself."""
        if self._process is not None:
            self._process.wait(DEADLINE)
        command = [sys.executable, "-m", "nodeagent.main", *self.flags]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Returns when the process is gone."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(DEADLINE)

    def last_lines(self, count: int = 60) -> list[str]:
        """The end of its log, for who reads a failed test."""
        return self.log.read_text().splitlines()[-count:]

    async def stop(self) -> None:
        """SIGTERM, the way an upgrade ends it."""
        await asyncio.to_thread(self.end, signal.SIGTERM)


def pids_of_pod(uid: str) -> set[int]:
    """The processes in the pod's cgroup, its sandbox's among them."""
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    return {pid for pid in pids if pod_uid(pid) == uid}


def pids_in_slice(uid: str) -> set[int]:
    """Those of them that were given a slice."""
    return {pid for pid in pids_of_pod(uid) if b"CUDA_MPS_PIPE_DIRECTORY=" in _environment(pid)}


def _environment(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


def wait_for_line(log: Path, text: str, seconds: float = DEADLINE) -> str:
    """The first line of a log that has the text."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if text in line:
                return line
        time.sleep(0.01)
    raise AssertionError(f"no line with {text!r} in {log}:\n{log.read_text()[-2000:]}")
