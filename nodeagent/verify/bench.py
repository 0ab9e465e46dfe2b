"""One GPU under MPS for a proof: the supervisor as its container runs it, and its clients."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mpslice.gpus import GpuUuid, capacity_gb, limit_mib
from mpslice.slices import SliceSize
from nodeagent.errors import AgentError
from nodeagent.gpus.nvml import Nvml
from nodeagent.hardware import Backstop, Gpu
from nodeagent.mps.client import MpsFiles
from nodeagent.mps.control import ControlProgram
from nodeagent.mps.paths import PROGRAM, MpsRoot

START_SECONDS: Final = 90.0  # for a daemon and its server
WORD_SECONDS: Final = 60.0  # for an answer of a CUDA program
_GUARD_SECONDS: Final = 120.0
_RESERVED_MIB: Final = 256
CHECKOUT: Final = Path(__file__).resolve().parents[2]

Answer = dict[str, Any]


class Unfit(Exception):
    """Nothing can be proved on this machine, or on this GPU; says why and what to do."""


def pipes_of(
    process: asyncio.subprocess.Process,
) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
    """Its stdin and stdout, both of which were asked for when it was started."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("started without pipes")
    return process.stdin, process.stdout


class Program:
    """One CUDA program in a slice. Answers of a program that has ended have the code None."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stdin, self._stdout = pipes_of(process)
        self.pid = process.pid

    async def ask(self, word: str, seconds: float = WORD_SECONDS) -> Answer:
        """Raises TimeoutError."""
        with suppress(ConnectionError):
            self._stdin.write(f"{word}\n".encode())
            await self._stdin.drain()
        async with asyncio.timeout(seconds):
            line = await self._stdout.readline()
        if not line:
            return {"error": f"it ended with status {await self._process.wait()}", "code": None}
        answer: Answer = json.loads(line)
        return answer

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@dataclass(slots=True)
class Bench:
    """`programs` that were started here end with the bench."""

    gpu: Gpu
    nvml: Nvml
    root: MpsRoot
    mps: MpsFiles
    user: int
    supervisor: int
    log: Path
    host_ipc: bool
    programs: list[Program] = field(default_factory=list)

    @property
    def control(self) -> ControlProgram:
        return ControlProgram(self.root.pipe(self.gpu.uuid), self.root.log(self.gpu.uuid))

    @property
    def capacity(self) -> int:
        return capacity_gb(self.gpu.memory_mib)

    def limit(self, gb: int) -> int:
        """The MiB of a slice, as an agent with its defaults has it."""
        return limit_mib(
            SliceSize(gb),
            capacity=self.capacity,
            memory_mib=self.gpu.memory_mib,
            driver_reserved_mib=self.gpu.reserved_mib,
            mps_reserved_mib=_RESERVED_MIB,
        )

    async def hold(self, limit: int) -> None:
        """Returns once the GPU's daemon grants that much; raises Unfit."""
        await self.mps.hold({self.gpu.uuid: Backstop(limit)})
        try:
            async with asyncio.timeout(START_SECONDS):
                await self.mps.wait_ready(self.gpu.uuid)
        except TimeoutError:
            health = self.mps.health().get(self.gpu.uuid)
            said = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise Unfit(
                f"the MPS daemon is not ready after {START_SECONDS:.0f} s: "
                f"{(health and health.detail) or said or 'nobody says why'}"
            ) from None

    async def ready_again(self, seconds: float) -> bool:
        """Whether everything reads back as wanted within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self.mps.wait_ready(self.gpu.uuid)
        except (TimeoutError, AgentError):
            return False
        return True

    async def program(self, limit: int, *, uid: int | None = None, sealed: bool = False) -> Program:
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": self.gpu.uuid,
            "CUDA_MPS_PIPE_DIRECTORY": str(self.root.pipe(self.gpu.uuid)),
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={limit}M",
            "CUDA_CACHE_DISABLE": "1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "nodeagent.verify.client",
            str(self.user if uid is None else uid),
            str(0 if self.host_ipc else self.supervisor),
            str(self.root.sealed(self.gpu.uuid)) if sealed else "",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            cwd=CHECKOUT,
        )
        program = Program(process)
        self.programs.append(program)
        return program

    async def clear(self) -> None:
        """Ends every program."""
        programs, self.programs = self.programs, []
        await asyncio.gather(*(program.kill() for program in programs))


@asynccontextmanager
async def bench(gpu: Gpu, nvml: Nvml, user: int, *, host_ipc: bool) -> AsyncIterator[Bench]:
    """A GPU that is held; afterwards it is as it was, and nothing of the bench is left."""
    folder = await asyncio.to_thread(_open_folder)
    guard = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "nodeagent.verify.guard",
        str(folder),
        gpu.uuid,
        str(user),
        str(host_ipc).lower(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
        start_new_session=True,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_finished, guard)
        async with asyncio.timeout(_GUARD_SECONDS):
            line = await pipes_of(guard)[1].readline()
        if not line:
            raise Unfit("the MPS supervisor cannot be started; see above")
        root = MpsRoot(folder / "r")
        mps = MpsFiles(root, host_ipc=True)  # a private /dev/shm is looked at from its own side
        await mps.load()
        follower = asyncio.create_task(mps.follow())
        supervisor = json.loads(line)["supervisor"]
        made = Bench(gpu, nvml, root, mps, user, supervisor, folder / "log", host_ipc)
        try:
            yield made
        finally:
            await made.clear()
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)


async def _finished(guard: asyncio.subprocess.Process) -> None:
    pipes_of(guard)[0].close()
    await guard.wait()


def _open_folder() -> Path:
    """Every user may pass it, and sockets' paths in it are short."""
    run = "/run" if os.access("/run", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="mps-", dir=run))
    folder.chmod(0o755)
    return folder


def fit_gpu(nvml: Nvml, wanted: str) -> Gpu:
    """The GPU of this index or UUID; raises Unfit for one that is used or cannot be sliced."""
    if os.geteuid() != 0:
        raise Unfit("it needs root: MPS servers take on another user, and modes are root's to set")
    if shutil.which(PROGRAM) is None:
        raise Unfit(f"{PROGRAM} is not on PATH; it comes with the driver")
    gpus = [nvml.gpu(index) for index in range(nvml.count())]
    gpu = next((g for g in gpus if wanted in (str(g.index), g.uuid)), None)
    if gpu is None:
        known = ", ".join(f"{g.index} ({g.uuid})" for g in gpus)
        raise Unfit(f"--gpu: {wanted!r} is not a GPU of this machine, which has {known or 'none'}")
    if gpu.mig:
        raise Unfit(f"GPU {gpu.index} is in MIG mode; nvidia-smi -mig 0 ends that")
    used = sorted(nvml.memory_by_process(GpuUuid(gpu.uuid)))
    if used:
        pids = ", ".join(map(str, used))
        raise Unfit(f"GPU {gpu.index} is used by processes {pids}; it is tried when it is idle")
    return gpu
