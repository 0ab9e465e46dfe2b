"""Two slices of a real GPU, with its own driver and MPS: prints what was found, as JSON.

`python -m tests.nodeagent.mps.real` needs root, an idle GPU of 32 GB or more, and the driver's
programs and libraries. It changes no setting of the GPU (--compute-mode=keep).
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mpslice.gpus import GpuUuid, capacity_gb, limit_mib
from mpslice.slices import SliceSize
from nodeagent.errors import AgentError
from nodeagent.gpus.nvml import Nvml
from nodeagent.gpus.real import NvmlGpus
from nodeagent.hardware import Backstop, Gpu
from nodeagent.mps.client import MpsFiles
from nodeagent.mps.paths import PROGRAM, MpsRoot

USER, STRANGER = 1000, 1001
SIZES = (10, 20)  # gb
LEAST_GB = 32

_CHECKOUT = Path(__file__).resolve().parents[3]
_START = 90.0  # seconds for a daemon and its server
_WORD = 120.0  # seconds for an answer of a CUDA program
_SHUT_OUT = 8.0  # seconds in which a stranger is not served


class Unfit(Exception):
    """This machine is none for it."""


class Program:
    """One CUDA program in a slice."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, gpu: Gpu, root: MpsRoot, limit: int, uid: int = USER) -> "Program":
        # What Allocate answers, but for the pipe's path, which is mounted elsewhere in a container.
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": gpu.uuid,
            "CUDA_MPS_PIPE_DIRECTORY": str(root.pipe(gpu.uuid)),
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={limit}M",
            "CUDA_CACHE_DISABLE": "1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.nodeagent.mps.cuda",
            str(uid),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd=_CHECKOUT,
        )
        return cls(process)

    async def ask(self, word: str, seconds: float = _WORD) -> dict[str, Any]:
        """Its answer; raises TimeoutError, and Unfit when it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n".encode())
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
        if not line:
            raise Unfit(f"a CUDA program has ended: status {await self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


def limit_of(gpu: Gpu, gb: int) -> int:
    """The MiB of a slice, as the agent with its defaults has it."""
    return limit_mib(
        SliceSize(gb),
        capacity=capacity_gb(gpu.memory_mib),
        memory_mib=gpu.memory_mib,
        driver_reserved_mib=gpu.reserved_mib,
        mps_reserved_mib=256,
    )


@asynccontextmanager
async def supervised(folder: Path) -> AsyncIterator[MpsRoot]:
    """`mpslice-nodeagent mps` as its container runs it, which leaves the compute mode alone."""
    root = MpsRoot(folder / "r")
    flags = [f"--mps-root={root.root}", f"--mps-user={USER}", "--compute-mode=keep"]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nodeagent.main", "mps", *flags, stderr=log, cwd=_CHECKOUT
        )
    try:
        yield root
    finally:
        process.terminate()
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()


async def ready(mps: MpsFiles, gpu: GpuUuid, folder: Path) -> None:
    try:
        async with asyncio.timeout(_START):
            await mps.wait_ready(gpu)
    except TimeoutError:
        why = mps.health()[gpu].detail or (folder / "log").read_text()[-500:]
        raise Unfit(f"MPS does not start here: {why}") from None


async def fit_gpu(gpus: NvmlGpus) -> Gpu:
    """The first GPU that is idle and large enough."""
    if os.geteuid() != 0:
        raise Unfit("MPS servers of another user need root")
    if shutil.which(PROGRAM) is None:
        raise Unfit(f"{PROGRAM} is not on PATH")
    for gpu in gpus.read():
        idle = not await gpus.processes(gpu.uuid)
        if idle and not gpu.mig and capacity_gb(gpu.memory_mib) >= LEAST_GB:
            return gpu
    raise Unfit(f"no GPU of this machine is idle, without MIG, and of {LEAST_GB} gb or more")


async def try_slices(gpus: NvmlGpus, gpu: Gpu, folder: Path) -> dict[str, Any]:
    """Everything that is to be shown of two slices on one GPU."""
    limits = [limit_of(gpu, gb) for gb in SIZES]
    found: dict[str, Any] = {"limits_mib": limits}
    async with supervised(folder) as root:
        mps = MpsFiles(root, host_ipc=True)
        await mps.load()
        follower = asyncio.create_task(mps.follow())
        programs: list[Program] = []
        try:
            await mps.hold({gpu.uuid: Backstop(max(limits), used=True)})
            await ready(mps, gpu.uuid, folder)
            programs += [await Program.start(gpu, root, limit) for limit in limits]
            found["started"] = [await program.ask("start") for program in programs]
            found["told"] = [await program.ask("memory") for program in programs]
            found["filled"] = [await program.ask("fill") for program in programs]
            found["shown_mib"] = await shown(gpus, gpu, programs)
            found["stranger"] = await try_stranger(gpu, root, programs)
            await programs[0].kill()
            found["after_a_kill"] = await programs[1].ask("work")
            await ready(mps, gpu.uuid, folder)
            third = await Program.start(gpu, root, limits[0])
            programs.append(third)
            found["newcomer"] = await third.ask("fill")
        finally:
            for program in programs:
                await program.kill()
            await mps.hold({})
            found["handed_back"] = await _handed_back(mps)
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
    return found


async def shown(gpus: NvmlGpus, gpu: Gpu, programs: list[Program]) -> list[int | None]:
    """What NVML says that each program uses, None where it does not list it."""
    used = {process.pid: process.memory_mib for process in await gpus.processes(gpu.uuid)}
    return [used.get(program.pid) for program in programs]


async def try_stranger(gpu: Gpu, root: MpsRoot, programs: list[Program]) -> str:
    """What becomes of a program of another user while others are served."""
    stranger = await Program.start(gpu, root, limit_of(gpu, SIZES[0]), STRANGER)
    programs.append(stranger)
    try:
        answer = await stranger.ask("start", _SHUT_OUT)
    except TimeoutError:
        return "waits"
    finally:
        await stranger.kill()
    return str(answer.get("error", "served"))


async def _handed_back(mps: MpsFiles) -> bool:
    try:
        async with asyncio.timeout(60):
            while mps.health():
                await mps.changed.after(mps.changed.count)
    except TimeoutError:
        return False
    return True


async def run() -> dict[str, Any]:
    """What was found; raises Unfit or AgentError."""
    gpus = await NvmlGpus.start()
    folder = await asyncio.to_thread(_open_folder)
    try:
        gpu = await fit_gpu(gpus)
        with Nvml() as nvml:
            about = {"driver": nvml.driver_version(), "gpu": gpu.product, "mode": _mode(nvml, gpu)}
            found = await try_slices(gpus, gpu, folder)
            return {**about, **found, "mode_after": _mode(nvml, gpu)}
    finally:
        gpus.close()
        shutil.rmtree(folder)


def _open_folder() -> Path:
    """A folder that every user may enter, with a short name, for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="mps-"))
    folder.chmod(0o755)
    return folder


def _mode(nvml: Nvml, gpu: Gpu) -> str:
    return nvml.compute_mode(gpu.uuid).name


def main() -> int:
    try:
        found = asyncio.run(run())
    except (Unfit, AgentError) as error:
        print(json.dumps({"error": str(error)}))  # noqa: T201  its one purpose
        return 1
    print(json.dumps(found, indent=2))  # noqa: T201  its one purpose
    return 0


if __name__ == "__main__":
    sys.exit(main())
