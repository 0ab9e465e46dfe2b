"""Rows: how long a plan takes on large clusters, and how much memory.

Times are seconds of one core's work, and stand beside a fixed pure-Python loop of the same run, so
that machines can be compared. Each time and each peak is measured in a process of its own, as in a
planner's, where other instances have left nothing behind.
"""

import json
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
from planner.model.snapshot import Snapshot
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
    for number, timing in enumerate(TIMINGS):
        if timing.solver not in solvers:
            continue
        figures = _elsewhere("time", number, seeds[0])
        seconds = figures.pop("seconds")
        name = timing.name + (", with build_snapshot" if timing.snapshot else "")
        row = Row(_TIMES, name, OURS[timing.solver], seconds, "s", more=figures)
        yield row.at_most(timing.seconds)


def _measure_time(timing: Timing, seed: int) -> dict[str, float]:
    given = world(timing.recipe, seed)
    ready = _snapshot(given)
    made = planned(ready, given.pending, solver=timing.solver)

    def work() -> None:
        snapshot = _snapshot(given) if timing.snapshot else ready
        planned(snapshot, given.pending, solver=timing.solver)

    stick = _best(yardstick, 3)
    seconds = _best(work, 5 if timing.seconds < 0.5 else 3)
    stick = min(stick, _best(yardstick, 3))
    placed = sum(sum(placement.pod.seats) for placement in made.placements)
    return {
        "seconds": seconds,
        "× yardstick": seconds / stick,
        "yardstick s": stick,
        "GB placed %": 100 * placed / asked_gb(given.pending),
        "build_snapshot s": _best(lambda: _snapshot(given), 2),
    }


def memory_rows(seeds: Sequence[int], solvers: Sequence[bool]) -> Iterator[Row]:
    """The peak of a process that holds the records and makes one plan, for the large timings."""
    for number, timing in enumerate(TIMINGS):
        if timing.recipe.gpus < 10_000 or timing.solver not in solvers:
            continue
        figures = _elsewhere("memory", number, seeds[0])
        peak = figures.pop("peak")
        row = Row(_MEMORY, timing.name, OURS[timing.solver], peak, "MiB", more=figures)
        yield row.at_most(_MOST_MB)


def _resident_mib(field: str) -> float:
    """A field of /proc/self/status, which, unlike getrusage's, starts anew with the program."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _measure_memory(timing: Timing, seed: int) -> dict[str, float]:
    before = _resident_mib("VmRSS")
    given = world(timing.recipe, seed)
    records = _resident_mib("VmRSS")
    planned(_snapshot(given), given.pending, solver=timing.solver)
    peak = _resident_mib("VmHWM")
    return {"peak": peak, "of it imports": before, "of it records": records - before}


def _elsewhere(what: str, number: int, seed: int) -> dict[str, float]:
    """The figures of one timing, measured by this module run as a program."""
    command = [sys.executable, "-m", "benchmarks.packing_times", what, str(number), str(seed)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(answer)
    return figures


if __name__ == "__main__":
    measure = {"time": _measure_time, "memory": _measure_memory}[sys.argv[1]]
    print(json.dumps(measure(TIMINGS[int(sys.argv[2])], int(sys.argv[3]))))
