"""Starts, watches and stops one process of a cluster; finds a cluster's processes.

Every process carries two environment variables, the cluster's folder and its own part
in it. They are inherited (containerd's shims carry containerd's), so whoever cleans up
finds all of them without any record that a crash could have left incomplete.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.cluster.layout import ClusterDir
from hack.cluster.waiting import wait_until

_CLUSTER = "MPSLICE_HARNESS_CLUSTER"
_PART = "MPSLICE_HARNESS_PART"
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run, and how to see that it is ready."""

    part: str
    command: tuple[str, ...]
    ready: Callable[[], bool] = lambda: True
    ready_seconds: float = 180.0
    environment: Mapping[str, str] = field(default_factory=dict)


class Program:
    """One process of a cluster that can be started, stopped, killed and restarted."""

    def __init__(self, cluster: ClusterDir, spec: ProcessSpec) -> None:
        self.spec = spec
        self.log = cluster.logs / f"{spec.part}.log"
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.spec.part

    @property
    def pid(self) -> int:
        """Raises ClusterError when the process does not run."""
        if self._process is None or self._process.poll() is not None:
            raise ClusterError(f"{self.name} does not run; see {self.log}")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait` return only once it is ready."""
        if self.running:
            raise ClusterError(f"{self.name} runs already; stop it first")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            **self.spec.environment,
            _CLUSTER: str(self._cluster.root),
            _PART: self.spec.part,
        }
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the harness alone, which then stops
            # everything in order.
            self._process = subprocess.Popen(
                self.spec.command,
                cwd=self._cluster.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Raises ClusterError when it ends, or is not ready in time."""

        def ready() -> bool:
            if not self.running:
                raise ClusterError(f"{self.name} ended at once: {self.last_lines()}")
            return self.spec.ready()

        wait_until(
            ready,
            f"{self.name} ready",
            seconds=self.spec.ready_seconds,
            details=self.last_lines,
        )

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """SIGTERM, and SIGKILL for one that has not ended after `seconds`."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)

    def detach(self) -> None:
        """Let it outlive this process, which no longer speaks for it."""
        if self._process is not None:
            # Popen warns about a child it has not seen end.
            self._process.returncode = 0
            self._process = None

    def restart(self, *, wait: bool = True) -> None:
        """Stop and start; the old process is gone before the new one takes its ports."""
        self.stop()
        self.start(wait=wait)

    def last_lines(self, count: int = 5) -> str:
        """The end of its log, for messages."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            lines = []
        return f"The end of {self.log}:\n" + "\n".join(lines[-count:])


@dataclass(frozen=True, slots=True)
class Marked:
    """A live process that belongs to a cluster."""

    pid: int
    cluster: Path
    part: str
    command: str


def find_marked(cluster: ClusterDir | None = None) -> list[Marked]:
    """All live processes of `cluster`, or of any cluster."""
    found = (_marks(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [m for m in found if m is not None and (cluster is None or m.cluster == cluster.root)]


def end(processes: Iterable[Marked], seconds: float, first: int = signal.SIGTERM) -> None:
    """Send `first` to all; SIGKILL to those still there after `seconds`."""
    pending: dict[int, int] = {}
    try:
        for process in processes:
            try:
                descriptor = os.pidfd_open(process.pid)
            except ProcessLookupError:
                continue
            # The number may have been given to another process since it was found.
            if _marks(process.pid) == process:
                pending[descriptor] = process.pid
            else:
                os.close(descriptor)
        for signal_number, patience in ((first, seconds), (signal.SIGKILL, _STOP_SECONDS)):
            for descriptor in pending:
                _send(descriptor, signal_number)
            for descriptor in _ended(pending, patience):
                pending.pop(descriptor)
                os.close(descriptor)
            if not pending:
                return
    finally:
        for descriptor in pending:
            os.close(descriptor)
    raise ClusterError(f"processes {sorted(pending.values())} do not end, even killed")


def _send(descriptor: int, signal_number: int) -> None:
    try:
        signal.pidfd_send_signal(descriptor, signal_number)
    except ProcessLookupError:
        pass  # it ended by itself, which is what we want


def _ended(descriptors: Iterable[int], seconds: float) -> list[int]:
    """Those of the process descriptors whose process ends within `seconds`."""
    poll = select.poll()
    waiting = set(descriptors)
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    ended: list[int] = []

    def collect() -> bool:
        for descriptor, _event in poll.poll(50):
            poll.unregister(descriptor)
            waiting.discard(descriptor)
            ended.append(descriptor)
        return not waiting

    try:
        wait_until(collect, "processes ended", seconds=seconds, every=0)
    except ClusterError:
        pass  # the caller sends the next signal to those left over
    return ended


def _marks(pid: int) -> Marked | None:
    try:
        block = Path(f"/proc/{pid}/environ").read_bytes()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None  # ended meanwhile, or another user's
    if _CLUSTER.encode() not in block:
        return None
    pairs = (entry.partition(b"=") for entry in block.split(b"\0"))
    variables = {key.decode(): value.decode(errors="replace") for key, _, value in pairs}
    if _CLUSTER not in variables:
        return None
    name = command.split(b"\0")[0].decode(errors="replace")
    return Marked(pid, Path(variables[_CLUSTER]), variables.get(_PART, ""), Path(name).name)
