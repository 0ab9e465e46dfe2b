"""What mpslice says of MPS, claim by claim, each with the smallest trial that can refute it."""

import asyncio
import ctypes
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from nodeagent.linux.libc import call
from nodeagent.mps.errors import MpsError
from nodeagent.verify.bench import CHECKOUT, Answer, Bench, Program
from nodeagent.verify.client import OUT_OF_MEMORY

COUNTS: Final = (1, 2, 4, 8, 16, 32, 48)
"""So many programs fill a GPU together; 48 is the most that MPS serves."""

_WITHIN: Final = 0.03
_LEAST_SHARE: Final = 0.9
_SHUT_OUT: Final = 6.0  # seconds in which a program that is not to be served is not
_CONTROL_SECONDS: Final = 5.0
_FAULT_SECONDS: Final = 45.0
_KILLS: Final = 20
_SLACK_MIB: Final = 64
_CAPABILITY_VERSION: Final = 0x20080522  # <linux/capability.h>


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one claim; `holds` None where it is told and nothing is claimed."""

    claim: str
    holds: bool | None
    figure: str


Check = Callable[[Bench], Awaitable[list[Finding]]]


async def starts(bench: Bench) -> list[Finding]:
    """The first check: all others need what it brings about."""
    began = monotonic()
    await bench.hold(bench.limit(bench.capacity))
    return [Finding("daemon and server start", True, f"{monotonic() - began:.1f} s")]


async def limit_holds(bench: Bench) -> list[Finding]:
    """A program gets its limit and no more, and NVML shows as much."""
    limit = bench.limit(max(1, bench.capacity // 4))
    program = await bench.program(limit)
    started, filled = await program.ask("start"), await program.ask("fill")
    got = filled.get("allocated_mib", 0)
    shown = bench.nvml.memory_by_process(bench.gpu.uuid).get(program.pid, 0)
    holds = filled.get("refused_with") == OUT_OF_MEMORY and _LEAST_SHARE * limit <= got <= limit
    near = shown == 0 or abs(shown - limit) <= max(_WITHIN * limit, _SLACK_MIB)
    return [
        _answered("a program is served", started),
        Finding("it gets its limit and no more", holds, f"{got} of {limit} MiB"),
        Finding("NVML shows the limit within 3 %", holds and near, f"{shown} MiB"),
    ]


async def sealed_is_enough(bench: Bench) -> list[Finding]:
    """A client needs nothing of the pipe directory but the daemon's socket."""
    program = await bench.program(bench.limit(1), sealed=True)
    started = await _in_time(program, "start")
    worked = await _in_time(program, "work") if "error" not in started else started
    return [_answered("the socket alone, read-only, is enough", worked)]


async def full_carve(bench: Bench, counts: tuple[int, ...] = COUNTS) -> list[Finding]:
    """Programs that fill their slices of a whole GPU all get them, up to the 48 that MPS serves."""
    findings = []
    for count in [count for count in counts if count <= bench.capacity]:
        limit = bench.limit(bench.capacity // count)
        programs = [await bench.program(limit) for _ in range(count)]
        slowest, starting = await _control_meanwhile(bench, programs)
        failed = [answer["error"] for answer in starting if "error" in answer]
        filled = await asyncio.gather(*(_in_time(p, "fill") for p in programs))
        least = min(answer.get("allocated_mib", 0) for answer in filled)
        most = max(answer.get("allocated_mib", 0) for answer in filled)
        holds = not failed and least >= _LEAST_SHARE * limit and most <= limit
        claim = f"{count} × {bench.capacity // count}gb fill the GPU"
        findings.append(Finding(claim, holds, failed[0] if failed else f"{least} of {limit} MiB"))
        if count in (1, max(counts)):
            findings.append(
                Finding(f"server's memory, {count} clients", None, _server_memory(bench))
            )
        if count == max(counts):
            quick = slowest <= _CONTROL_SECONDS
            figure = f"slowest {slowest * 1000:.0f} ms"
            findings.append(Finding(f"control answers while {count} start", quick, figure))
            another = await _in_time(await bench.program(limit), "start", _SHUT_OUT)
            figure = another.get("error", "served")
            findings.append(Finding(f"client {count + 1} gets", None, figure))
        await bench.clear()
    return findings


async def stranger_is_refused(bench: Bench) -> list[Finding]:
    """A program of another user is not served while one of the MPS user is."""
    served = await bench.program(bench.limit(1))
    await _in_time(served, "start")
    stranger = await bench.program(bench.limit(1), uid=bench.user + 1)
    answer = await _in_time(stranger, "start", _SHUT_OUT)
    figure = answer.get("error", "served")
    return [Finding("another user is not served beside it", "error" in answer, figure)]


async def death_is_its_own(bench: Bench) -> list[Finding]:
    """A client that is killed while the GPU works for it takes nobody's work with it."""
    before = bench.nvml.used_mib(bench.gpu.uuid)
    witness = await bench.program(bench.limit(1))
    await _in_time(witness, "start")
    with_witness = bench.nvml.used_mib(bench.gpu.uuid)
    for _ in range(_KILLS):
        victim = await bench.program(bench.limit(max(1, bench.capacity // 4)))
        for word in ("start", "work", "spin"):
            await _in_time(victim, word)
        await victim.kill()
    works = await _in_time(witness, "work")
    left = await _settled(bench, with_witness)
    about = f"{left - with_witness:+d} MiB after {_KILLS} kills, {before} before all"
    return [
        _answered("a killed client leaves the others", works),
        Finding("its memory comes back", left - with_witness <= _SLACK_MIB, about),
    ]


async def memory_by_process(bench: Bench) -> list[Finding]:
    """The agent, which has no capability, is told the memory of each client."""
    program = await bench.program(bench.limit(1))
    for word in ("start", "work"):
        await _in_time(program, word)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "nodeagent.verify.checks",
        bench.gpu.uuid,
        stdout=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
    )
    output, _ = await process.communicate()
    shown = json.loads(output or b"{}").get(str(program.pid))
    claim = "root without capabilities sees its memory"
    return [Finding(claim, bool(shown), "not listed" if shown is None else f"{shown} MiB")]


async def managed_memory_escapes(bench: Bench) -> list[Finding]:
    """How far managed memory goes beyond the limit; never beyond half of what is free."""
    limit = bench.limit(1)
    free = bench.gpu.memory_mib - bench.gpu.reserved_mib - bench.nvml.used_mib(bench.gpu.uuid)
    wanted = min(2 * limit, free // 2)
    program = await bench.program(limit)
    answer = await _in_time(program, f"managed {wanted}")
    figure = answer.get("error", f"{wanted} MiB in a slice of {limit}")
    return [Finding("managed memory beyond the limit", None, figure)]


async def fault_passes(bench: Bench) -> list[Finding]:
    """After a fatal fault the GPU serves again, though the processes live on."""
    culprit, witness = [await bench.program(bench.limit(1)) for _ in range(2)]
    for program in (culprit, witness):
        await _in_time(program, "start")
    hit = await _in_time(culprit, "fault")
    began = monotonic()
    # The processes live on: they are ended with terminate_client, 30 s after the fault.
    ready = await bench.ready_again(_FAULT_SECONDS)
    fresh = await bench.program(bench.limit(1))
    served = await _in_time(fresh, "start", _FAULT_SECONDS)
    seconds = monotonic() - began
    return [
        Finding("a fault is told to its program", "error" in hit, hit.get("error", "nothing")),
        Finding(
            "the GPU serves again within 45 s",
            ready and "error" not in served and seconds <= _FAULT_SECONDS + 1,
            served.get("error", f"{seconds:.1f} s"),
        ),
    ]


CHECKS: Final[tuple[Check, ...]] = (
    starts,
    limit_holds,
    sealed_is_enough,
    full_carve,
    stranger_is_refused,
    death_is_its_own,
    memory_by_process,
    managed_memory_escapes,
    fault_passes,
)


async def private_shm(bench: Bench) -> list[Finding]:
    """On a bench without the host's /dev/shm."""
    await bench.hold(bench.limit(1))
    program = await bench.program(bench.limit(1))
    started = await _in_time(program, "start")
    worked = await _in_time(program, "work") if "error" not in started else started
    return [_answered("a private /dev/shm serves", worked)]


def _answered(claim: str, answer: Answer) -> Finding:
    return Finding(claim, "error" not in answer, answer.get("error", "yes"))


async def _in_time(program: Program, word: str, seconds: float = 60.0) -> Answer:
    try:
        return await program.ask(word, seconds)
    except TimeoutError:
        return {"error": f"no answer to {word} within {seconds:.0f} s", "code": None}


async def _control_meanwhile(bench: Bench, programs: list[Program]) -> tuple[float, list[Answer]]:
    """The seconds of the slowest control call while the programs start, and their answers."""
    slowest = 0.0
    starting = asyncio.gather(*(_in_time(program, "start") for program in programs))
    while not starting.done():
        began = monotonic()
        try:
            await bench.control.servers()
        except MpsError:
            slowest = float("inf")
        slowest = max(slowest, monotonic() - began)
        await asyncio.wait([starting], timeout=0.1)
    return slowest, await starting


async def _settled(bench: Bench, expected: int, seconds: float = 10.0) -> int:
    until = monotonic() + seconds
    while True:
        used = bench.nvml.used_mib(bench.gpu.uuid)
        if used <= expected or monotonic() > until:
            return used
        await asyncio.sleep(0.1)


def _server_memory(bench: Bench) -> str:
    from nodeagent.mps.processes import servers_left

    for pid in servers_left(bench.root.pipe(bench.gpu.uuid)):
        status = Path(f"/proc/{pid}/status").read_text()
        resident = next(line.split()[1] for line in status.splitlines() if "VmRSS" in line)
        adjusted = Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
        return f"{int(resident) // 1024} MiB, oom_score_adj {adjusted}"
    return "no server"


def _without_capabilities() -> None:
    """As the agent's container runs: root, and nothing beside that."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    header, nothing = Header(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    call("capset", ctypes.byref(header), ctypes.byref(nothing))


def _main(gpu: str) -> None:
    from mpslice.gpus import GpuUuid
    from nodeagent.gpus.nvml import Nvml

    _without_capabilities()
    found: dict[int, Any] = Nvml().memory_by_process(GpuUuid(gpu))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1])
