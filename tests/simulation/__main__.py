"""Runs by the thousand, or one again: `python -m tests.simulation --seed 7` replays a run.

Ctrl-C or SIGTERM ends them early, with the figures of those that were made.
"""

import argparse
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from tests.simulation.moments import MOMENTS
from tests.simulation.run import Outcome, play
from tests.simulation.script import Kind, script_of
from tests.simulation.shrink import shrunk

_TOLD_EACH: Final = 1_000  # runs


def main() -> int:
    """Exit status 1 when an invariant was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this run alone, and tell it")
    parser.add_argument("--shrink", action="store_true", help="leave out of it what can be")
    parser.add_argument("--seeds", type=int, default=1_000, help="so many runs, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed, shrink=options.shrink)
    return _many(range(options.first, options.first + options.seeds), options.processes)


def _replay(seed: int, *, shrink: bool) -> int:
    script = script_of(seed)
    if shrink:
        script, _ = shrunk(script)
    print(script)
    outcome = play(script, print)
    print("\n".join(outcome.problems) or f"no invariant broken; digest {outcome.digest}")
    return 1 if outcome.problems else 0


def outcome_of(seed: int) -> Outcome:
    """What became of a seed's run."""
    return play(script_of(seed))


def _leave_ctrl_c_to_the_first() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _many(seeds: range, processes: int) -> int:
    started = time.perf_counter()
    coverage: Counter[tuple[str, str]] = Counter()
    seen: Counter[str] = Counter()
    made = broken = 0
    # Where it runs in the background, a shell has SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = ProcessPoolExecutor(processes, initializer=_leave_ctrl_c_to_the_first)
    try:
        for outcome in pool.map(outcome_of, seeds, chunksize=10):
            made += 1
            coverage.update(outcome.coverage)
            seen.update(outcome.seen)
            if outcome.problems:
                broken += 1
                print(f"seed {outcome.seed}: {outcome.problems[0]}", flush=True)
            if made % _TOLD_EACH == 0:
                print(f"{made} runs, broken: {broken}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"ended early: {made} of {len(seeds)} runs, from seed {seeds[0]} on")
    finally:
        pool.shutdown(cancel_futures=True)
    seconds = time.perf_counter() - started
    rate = 60 * made / seconds
    print(f"{made} runs in {seconds:.0f} s, {rate:.0f} a minute; broken: {broken}")
    for name, count in sorted(seen.items()):
        print(f"  {name}: {count}")
    _report(coverage)
    return 1 if broken else 0


def _report(coverage: Counter[tuple[str, str]]) -> None:
    """How often each trouble began at each moment."""
    print("".join(f"\n  {number:2}  {moment}" for number, moment in enumerate(MOMENTS)))
    print(f"{'':32}" + "".join(f"{number:7}" for number in range(len(MOMENTS))))
    for kind in Kind:
        print(f"{kind:32}" + "".join(f"{coverage[kind, moment]:7}" for moment in MOMENTS))


if __name__ == "__main__":
    sys.exit(main())
