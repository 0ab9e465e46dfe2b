"""What the MPS supervisor costs: at a container's start, at a carve, and when nothing happens.

With NVIDIA's own control program and a stand-in for its server, so without the time that a server
needs on a GPU. The baseline is one bare call of the control program in the same run.
"""

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, perf_counter

from hack.cluster.mps import control_program
from nodeagent.hardware import Backstop
from nodeagent.mps.client import MpsFiles
from tests.nodeagent.mps.machine import ONE, MpsMachine, build_stand_ins, children_of
from tests.nodeagent.nvml.driver import FakeDriver, build

ROUNDS = 100
IDLE_SECONDS = 60.0
DEADLINE = 30.0


@asynccontextmanager
async def machine() -> AsyncIterator[MpsMachine]:
    """One with the programs, and nothing running yet."""
    folder = Path(tempfile.mkdtemp(prefix="m-"))
    folder.chmod(0o755)  # noqa: ASYNC240
    await asyncio.to_thread(build_stand_ins, folder)
    driver = FakeDriver(folder / "driver", await asyncio.to_thread(build, folder))
    made = MpsMachine(folder, control_program("trixie"), folder, driver)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder)


async def timed(what: Callable[[int], Awaitable[object]]) -> list[float]:
    """Milliseconds of each round."""
    times = []
    for number in range(ROUNDS):
        started = perf_counter()
        async with asyncio.timeout(DEADLINE):
            await what(number)
        times.append(1000 * (perf_counter() - started))
    return times


def show(name: str, times: list[float], baseline: float) -> None:
    """One line: median, 99th percentile, and the median's ratio to the baseline."""
    median = statistics.median(times)
    p99 = sorted(times)[int(len(times) * 0.99) - 1]
    print(f"{name:44} median {median:6.1f} ms   p99 {p99:6.1f} ms   ×{median / baseline:.1f}")


def cpu_seconds(pid: int) -> float:
    """What a process and the children that it has waited for have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """The resident memory of a process, what it shares with others included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


async def run() -> None:
    """Prints all of it."""
    async with machine() as made:
        reaper = made.start()
        mps = MpsFiles(made.root, host_ipc=True)
        await mps.load()
        follower = asyncio.create_task(mps.follow())
        started = perf_counter()
        await mps.hold({ONE: Backstop(9533)})
        await mps.lagging([ONE], DEADLINE)
        print(
            f"from nothing to ready: {perf_counter() - started:.2f} s, the supervisor's start in it"
        )

        async def call(_: int) -> None:
            await asyncio.to_thread(made.ask, "get_server_list")

        async def raise_backstop(number: int) -> None:
            await mps.hold({ONE: Backstop(9533 + number)})
            assert not await mps.lagging([ONE], DEADLINE)

        times = await timed(call)
        baseline = statistics.median(times)
        show("one call of the control program (baseline)", times, baseline)
        show("a container's start, everything read back", await timed(_start(mps)), baseline)
        show("a larger slice: limits set and read back", await timed(raise_backstop), baseline)
        await _idle(made, reaper.pid)
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


def _start(mps: MpsFiles) -> Callable[[int], Awaitable[object]]:
    async def start(_: int) -> None:
        await mps.wait_ready(ONE)

    return start


async def _idle(made: MpsMachine, reaper: int) -> None:
    known = (made.daemon(), *made.servers())
    (supervisor,) = [pid for pid in children_of(reaper) if pid not in known]
    before, since = cpu_seconds(supervisor), monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    share = (cpu_seconds(supervisor) - before) / (monotonic() - since)
    print(f"idle, one GPU, with its calls: {100 * share:.2f} % of a core")
    print(
        f"memory: supervisor {resident_mb(supervisor):.0f} MB, reaper {resident_mb(reaper):.0f} MB"
    )


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("MPS servers of another user need root")
    asyncio.run(run())
