"""A machine whose daemons are NVIDIA's: what a test does to it, and what it sees."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from mpslice.gpus import GpuUuid
from nodeagent.hardware import ComputeModes
from nodeagent.mps.daemons import Daemons, ReaperLine
from nodeagent.mps.decision import Policy
from nodeagent.mps.keeper import Tools
from nodeagent.mps.modes import open_compute_modes
from nodeagent.mps.paths import PROGRAM, SERVER_PROGRAM, MpsRoot
from nodeagent.mps.pipes import take_away
from nodeagent.mps.processes import daemons_at, is_within, servers_left
from nodeagent.mps.records import (
    MpsState,
    Status,
    Wanted,
    read_statuses,
    remove_record,
    write_record,
)
from nodeagent.mps.supervisor import supervise
from tests.compiling import compile_c
from tests.nodeagent.nvml.driver import FakeDriver
from tests.waiting import DEADLINE

T = TypeVar("T")

ONE = GpuUuid("GPU-00000000-0000-0000-0000-000000000001")
TWO = GpuUuid("GPU-00000000-0000-0000-0000-000000000002")
USER = 1000
POLICY = Policy(USER)
CALL_SECONDS = 3.0  # for a daemon that is made to hang; others answer in milliseconds
STRANGER = 1001
NURSERY = "tests.nodeagent.mps.nursery"
OTHER_DRIVER = "615"
"""A control program that is not NVIDIA's, see control_615.py."""
CLIENT = "client"  # stands in for a CUDA program

DEFAULT, EXCLUSIVE = 0, 3  # nvmlComputeMode_t

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parents[2]


def build_stand_ins(folder: Path, flags: Sequence[str] = ()) -> None:
    """Compiles what stands in for the driver's server and for CUDA programs into a folder."""
    for source, program in (("server.c", SERVER_PROGRAM), ("client.c", CLIENT)):
        compile_c(_HERE / source, folder / program, flags)


class MpsMachine:
    """Everything of it lies in one folder, by which its processes are told from others."""

    def __init__(self, folder: Path, control: Path, stand_ins: Path, driver: FakeDriver) -> None:
        self.folder = folder
        self.driver = driver
        self.root = MpsRoot(folder / "r")
        self.told = folder / "told"  # how the stand-ins are to misbehave
        self.told.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.client_program = stand_ins / CLIENT
        shutil.copy(control, self.bin / PROGRAM)
        shutil.copy(stand_ins / SERVER_PROGRAM, self.bin / SERVER_PROGRAM)
        for number, uuid in enumerate((ONE, TWO)):
            driver.gpu(uuid, memory=81920, minor=number)
        self._clients: list[subprocess.Popen[str]] = []
        self.call_seconds = CALL_SECONDS
        self._supervisors: list[subprocess.Popen[bytes]] = []
        self._daemons: ReaperLine | None = None
        self._line: socket.socket | None = None

    def use_other_driver(self) -> None:
        text = (_HERE / "control_615.py").read_text().partition("\n")[2]
        (self.bin / PROGRAM).write_text(f"#!{sys.executable}\n{text}")
        self.call_seconds = 10.0  # an interpreter has to start for each call
        compile_c(_HERE / "server_615.c", self.bin / SERVER_PROGRAM)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.driver.environment,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "STAND_IN": str(self.told),
        }

    # The supervisor.

    @asynccontextmanager
    async def supervised(self, policy: Policy = POLICY) -> AsyncIterator["asyncio.Task[None]"]:
        """A supervisor in this process; at the end of the block it is gone, as if killed."""
        async with open_compute_modes() as modes:
            task = asyncio.create_task(supervise(self.tools(policy, modes)))
            try:
                yield task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def tools(self, policy: Policy, modes: ComputeModes) -> Tools:
        program = str(self.bin / PROGRAM)
        return Tools(
            self.root,
            policy,
            modes,
            self.daemons(),
            program,
            self.environment,
            call_seconds=self.call_seconds,
        )

    def daemons(self) -> Daemons:
        """For supervisors in this process: what keeps their daemons, in a process of its own."""
        if self._daemons is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, self.log_file.open("ab") as log:
                nursery = subprocess.Popen(
                    [sys.executable, "-m", NURSERY, str(theirs.fileno()), str(self.root.root)],
                    pass_fds=[theirs.fileno()],
                    env=self.environment,
                    cwd=_CHECKOUT,
                    stderr=log,
                )
            self._supervisors.append(nursery)
            self._line = ours
            self._daemons = ReaperLine(ours)
        return self._daemons

    def start(self, *flags: str, within: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        """`mpslice-nodeagent mps` as a container runs it; its lines are in `log_file`."""
        command = [sys.executable, "-m", "nodeagent.main", "mps", f"--mps-root={self.root.root}"]
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                [*within, *command, *flags], env=self.environment, cwd=_CHECKOUT, stderr=log
            )
        self._supervisors.append(process)
        return process

    @property
    def log_file(self) -> Path:
        return self.folder / "log"

    # The agent's side.

    def want(
        self, gpu: GpuUuid = ONE, limit: int = 9533, *, used: bool = False, check: str = ""
    ) -> None:
        write_record(self.root.wanted, gpu, Wanted(limit, used, check))

    def hand_back(self, gpu: GpuUuid = ONE) -> None:
        remove_record(self.root.wanted, gpu)

    def status(self, gpu: GpuUuid = ONE) -> Status | None:
        return read_statuses(self.root.status)[0].get(gpu)

    def is_state(self, state: MpsState, gpu: GpuUuid = ONE) -> bool:
        status = self.status(gpu)
        return status is not None and status.state is state

    async def ready(self, limit: int = 9533, gpu: GpuUuid = ONE) -> Status:
        """Waits until the GPU's daemon is, with this limit."""

        def fulfilled() -> Status | None:
            status = self.status(gpu)
            wanted = status is not None and status.state is MpsState.READY
            return status if wanted and status and status.limit_mib == limit else None

        return await self.until(fulfilled, f"{gpu} to be ready with {limit} MiB")

    async def checked(
        self, check: str = "now", gpu: GpuUuid = ONE, *, used: bool = False
    ) -> Status:
        """Asks for everything to be read back, and waits until it has been."""
        self.want(gpu, used=used, check=check)

        def answered() -> Status | None:
            status = self.status(gpu)
            return status if status is not None and status.check == check else None

        return await self.until(answered, f"the check {check!r} of {gpu}")

    async def until(self, probe: Callable[[], T | None], what: str, seconds: float = DEADLINE) -> T:
        deadline = time.monotonic() + seconds
        while True:
            if found := probe():
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}; {self.status()}; {self._tail()}")
            await asyncio.sleep(0.01)

    def has_logged(self, text: str) -> bool:
        return self.log_file.exists() and text in self.log_file.read_text()

    def _tail(self) -> str:
        return self.log_file.read_text()[-2000:] if self.log_file.exists() else ""

    # The daemons.

    def mode(self, gpu: GpuUuid = ONE) -> int | None:
        return self.driver.compute_mode(gpu)

    def daemon(self, gpu: GpuUuid = ONE) -> int | None:
        found = daemons_at(self.root.pipe(gpu))
        first = [pid for pid in found if not any(is_within(pid, p) for p in found if p != pid)]
        return first[0] if first else None

    def servers(self, gpu: GpuUuid = ONE) -> tuple[int, ...]:
        return servers_left(self.root.pipe(gpu))

    def ask(self, command: str, gpu: GpuUuid = ONE, uid: int = 0) -> str:
        """What the control program answers, to root or to a user who has but the pipe."""
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        done = subprocess.run(
            [*become, str(self.bin / PROGRAM)],
            input=f"{command}\n",
            env={**self.environment, "CUDA_MPS_PIPE_DIRECTORY": str(self.root.pipe(gpu))},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        return done.stdout.strip()

    def connect(self, uid: int = USER, gpu: GpuUuid = ONE) -> "subprocess.Popen[str]":
        """A CUDA program of that user; its first line is `waits`, the next `served`."""
        client = subprocess.Popen(
            [str(self.client_program), str(uid)],
            env={**self.environment, "CUDA_MPS_PIPE_DIRECTORY": str(self.root.pipe(gpu))},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._clients.append(client)
        return client

    def served(self, uid: int = USER, gpu: GpuUuid = ONE) -> "subprocess.Popen[str]":
        """A client that the server has taken."""
        client = self.connect(uid, gpu)
        assert client.stdout is not None
        assert [client.stdout.readline() for _ in range(2)] == ["waits\n", "served\n"]
        return client

    def misbehave(self, word: str, *, on: bool = True) -> None:
        if on:
            (self.told / word).touch()
        else:
            (self.told / word).unlink()

    def end(self) -> None:
        """Ends every process of it."""
        for supervisor in self._supervisors:
            supervisor.kill()
            supervisor.wait(DEADLINE)
        for client in self._clients:
            client.kill()
            client.communicate(timeout=DEADLINE)
        if self._line is not None:
            self._line.close()
        for gpu in (ONE, TWO):
            for pid in (*daemons_at(self.root.pipe(gpu)), *self.servers(gpu)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            take_away(self.root.pipe(gpu))


def children_of(pid: int) -> Sequence[int]:
    """The processes that a process has started and that still live."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
