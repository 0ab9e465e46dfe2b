"""Lives by the thousand, or one again: `python -m tests.planner.lives --seed 7` replays a life."""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.planner.lives.many import Outcome, live


def main() -> int:
    """Exit status 1 when an invariant was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this life alone, and tell it")
    parser.add_argument("--seeds", type=int, default=1_000, help="so many lives, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--preemption", action="store_true", help="with planner.preemption on")
    parser.add_argument("--spread", action="store_true", help="with groups spread over GPUs")
    options = parser.parse_args()
    if options.seed is not None:
        outcome = live(
            options.seed, tell=True, preemption=options.preemption, spread=options.spread
        )
        print("\n".join(outcome.problems) or "no invariant broken")
        return 1 if outcome.problems else 0
    seeds = range(options.first, options.first + options.seeds)
    started = time.perf_counter()
    seen: Counter[str] = Counter()
    broken = 0
    with ProcessPoolExecutor(options.processes) as pool:
        one = partial(live, preemption=options.preemption, spread=options.spread)
        for outcome in pool.map(one, seeds, chunksize=25):
            seen.update(outcome.seen)
            broken += bool(outcome.problems)
            if outcome.problems:
                print(f"seed {outcome.seed}: {outcome.problems[0]}", flush=True)
    _report(len(seeds), broken, time.perf_counter() - started, seen)
    return 1 if broken else 0


def _report(lives: int, broken: int, seconds: float, seen: Counter[str]) -> None:
    print(
        f"{lives} lives in {seconds:.0f} s, {60 * lives / seconds:.0f} a minute; broken: {broken}"
    )
    for name, count in sorted(seen.items()):
        print(f"  {name}: {count}")


__all__ = ["Outcome", "main"]

if __name__ == "__main__":
    sys.exit(main())
