"""Runs one after the other: `python -m tests.faults --first 7 --seeds 1` plays seed 7 again.

Each fault comes at least once in as many seeds as there are faults. A run that breaks an invariant
prints its seed and its history, and the next begins on a control plane of its own.
"""

import argparse
import asyncio
import logging
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median

from hack.cluster import parts as cluster_parts
from hack.cluster.parts import Parts
from hack.cluster.progress import to_stderr
from tests.faults.faults import FAULTS
from tests.faults.run import Outcome, play
from tests.faults.script import Moment, script_of
from tests.faults.stand import Stand, stand


async def many(seeds: Sequence[int], parts: Parts, *, tell: bool) -> list[Outcome]:
    """The outcome of each seed, told as it ends."""
    outcomes: list[Outcome] = []
    waiting = list(seeds)
    while waiting:
        async with AsyncExitStack() as running:
            standing = stand(parts, to_stderr, random.Random(waiting[0]))
            here = await running.enter_async_context(standing)
            while waiting and not here.problems:
                outcomes.append(await _one(here, waiting.pop(0), tell=tell))
                if outcomes[-1].problems:
                    break
    return outcomes


async def _one(here: Stand, seed: int, *, tell: bool) -> Outcome:
    script = script_of(seed)
    outcome = await play(here, script, print if tell else lambda _line: None)
    faults = "; ".join(hit.fault.name for hit in script.hits)
    word = "BROKEN" if outcome.problems else f"well after {outcome.recovery:.1f} s"
    print(f"seed {seed}: {word}: {faults}", flush=True)
    if outcome.problems and not tell:
        print("\n".join(outcome.history))
    print("".join(f"  {problem}\n" for problem in outcome.problems), end="", flush=True)
    return outcome


def report(outcomes: Sequence[Outcome]) -> list[str]:
    """What was covered and how long it took, in lines."""
    coverage: Counter[tuple[str, Moment]] = Counter()
    alone: defaultdict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        coverage.update(outcome.coverage)
        hits = script_of(outcome.seed).hits
        if len(hits) == 1 and not outcome.problems:
            alone[hits[0].fault.name].append(outcome.recovery)
    broken = sum(bool(outcome.problems) for outcome in outcomes)
    pods = sum(outcome.pods for outcome in outcomes)
    excused = sum(outcome.excused for outcome in outcomes)
    lines = [
        f"{len(outcomes)} runs, {broken} broken; {pods} pods, {excused} refused without a plugin",
        "seconds until all was well, after one fault alone (runs, median, longest):",
    ]
    for fault in FAULTS:
        times = alone[fault.name]
        told = f"{len(times):4} {median(times):6.1f} {max(times):6.1f}" if times else "   -"
        lines.append(f"  {fault.name:44} {told}")
    lines.append("how often each fault began, by what had just happened:")
    lines.append(f"{'':46}" + "".join(f"{number:5}" for number in range(len(Moment))))
    for fault in FAULTS:
        counts = "".join(f"{coverage[fault.name, moment]:5}" for moment in Moment)
        lines.append(f"  {fault.name:44}{counts}")
    lines += [f"  {number}: {moment}" for number, moment in enumerate(Moment)]
    return lines


def main() -> int:
    """Exit status 1 when an invariant was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=len(FAULTS), help="so many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--tell", action="store_true", help="print each run's history as it goes")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # that the API server is away is no news here
    seeds = range(options.first, options.first + options.seeds)
    outcomes = asyncio.run(many(seeds, cluster_parts.obtain(to_stderr), tell=options.tell))
    print("\n".join(report(outcomes)))
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
