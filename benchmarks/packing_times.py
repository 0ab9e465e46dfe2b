"""Rows: how long a plan takes on large clusters, and how much memory.

Times are seconds of one core's work, and stand beside a fixed pure-Python loop of the same run, so
that machines can be compared. Memory is measured in a process of its own.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.packing_instances import asked_gb
from benchmarks.packing_planner import OURS, planned
from benchmarks.packing_report import Row
from benchmarks.packing_worlds import Recipe, World, world
from planner.model import Snapshot
from planner.state.snapshot import build_snapshot

_TIMES: Final = "CPU seconds of a plan"
_MEMORY: Final = "memory: peak of the whole process"
_MOST_MB: Final = 300


@dataclass(frozen=True, slots=True)
class Timing:
    """What is timed, with or without the solver, and how long it may take."""

    name: str
    recipe: Recipe
    solver: bool
    seconds: float
    snapshot: bool = False  # whether building the snapshot counts


TIMINGS: Final = (
    Timing("1,000 GPUs × 1,000 pods, all fit", Recipe(1000, 1000, 0.25), False, 0.05, True),
    Timing("1,000 GPUs × 1,000 pods, contended", Recipe(1000, 1000, 0.5), False, 0.05, True),
    Timing("10,000 GPUs × 10,000 pods, all fit", Recipe(10_000, 10_000, 0.25), False, 0.1),
    Timing(
        "10,000 × 10,000, distinct, half without CPU, all fit",
        Recipe(10_000, 10_000, 0.1, reference=24, distinct=True, starved=True),
        False,
        1.0,
    ),
    Timing(
        "10,000 × 10,000, distinct, half without CPU, contended",
        Recipe(10_000, 10_000, 0.25, distinct=True, starved=True),
        False,
        1.0,
    ),
    Timing("10,000 GPUs × 10,000 pods, contended", Recipe(10_000, 10_000, 0.5), True, 3.0),
)


def yardstick() -> int:
    """A million rounds of integer work in pure Python."""
    total = 0
    for number in range(1_000_000):
        total += number ^ (total & 7)
    return total


def _best(work: Callable[[], object], rounds: int) -> float:
    """The least CPU seconds of some rounds: what the machine does besides only adds."""
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def _snapshot(given: World) -> Snapshot:
    return build_snapshot(given.nodes, given.layouts, (*given.pods, *given.pending))


def time_rows(seeds: Sequence[int], solvers: Sequence[bool]) -> Iterator[Row]:
    """One row a timing; the first seed is used."""
    for timing in TIMINGS:
        if timing.solver not in solvers:
            continue
        given = world(timing.recipe, seeds[0])
        snapshot = _snapshot(given)
        made = planned(snapshot, given.pending, solver=timing.solver)
        rounds = 5 if timing.seconds < 0.5 else 3

        def work(given: World = given, timing: Timing = timing, ready: Snapshot = snapshot) -> None:
            snapshot = _snapshot(given) if timing.snapshot else ready
            planned(snapshot, given.pending, solver=timing.solver)

        stick = _best(yardstick, 3)
        seconds = _best(work, rounds)
        stick = min(stick, _best(yardstick, 3))
        placed = sum(sum(placement.pod.seats) for placement in made.placements)
        row = Row(
            _TIMES,
            timing.name + (", with build_snapshot" if timing.snapshot else ""),
            OURS[timing.solver],
            seconds,
            "s",
            more={
                "× yardstick": seconds / stick,
                "yardstick s": stick,
                "GB placed %": 100 * placed / asked_gb(given.pending),
                "build_snapshot s": _best(lambda given=given: _snapshot(given), 2),  # type: ignore[misc]
            },
        )
        yield row.at_most(timing.seconds)


def memory_rows(seeds: Sequence[int], solvers: Sequence[bool]) -> Iterator[Row]:
    """The peak of a process that holds the records and makes one plan, for the large timings."""
    for number, timing in enumerate(TIMINGS):
        if timing.recipe.gpus < 10_000 or timing.solver not in solvers:
            continue
        command = [sys.executable, "-m", "benchmarks.packing_times", str(number), str(seeds[0])]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, records, peak = (int(kib) / 1024 for kib in answer.split())
        row = Row(
            _MEMORY,
            timing.name,
            OURS[timing.solver],
            peak,
            "MiB",
            more={"of it imports": before, "of it records": records - before},
        )
        yield row.at_most(_MOST_MB)


def _resident_kib(field: str) -> int:
    """A field of /proc/self/status, which, unlike getrusage's, starts anew with the program."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _measure_memory(timing: Timing, seed: int) -> None:
    before = _resident_kib("VmRSS")
    given = world(timing.recipe, seed)
    records = _resident_kib("VmRSS")
    planned(_snapshot(given), given.pending, solver=timing.solver)
    print(before, records, _resident_kib("VmHWM"))


if __name__ == "__main__":
    _measure_memory(TIMINGS[int(sys.argv[1])], int(sys.argv[2]))
