"""What is done to the cluster, one after another.

First pods that the scheduler alone binds, which is the baseline of the run; then pods that come one
by one; then a burst of pods whose slices are to be carved; then pods that come and end at a steady
rate on full GPUs; then pods that nothing has room for.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any, Final

from benchmarks.cluster.load import Arrivals, Life, lives, steady
from benchmarks.cluster.lone import lone
from benchmarks.cluster.run import FULL, STEADY_FLOOR, Run
from benchmarks.cluster.samples import stranded_gb, take
from benchmarks.cluster.stand import GPU_GB
from benchmarks.packing_instances import data_folder

_BASELINE_SECONDS: Final = 20.0
"""For so long, at most, pods come to the scheduler alone at the steady rate."""

_STRANDED: Final = 10
"""Every so many samples the planner is asked for its metrics, a line for each GPU."""

_BURST_SHARE: Final = 0.6
"""A burst asks for so much of the GPUs at most: all of it fits."""


async def everything(run: Run) -> None:
    """All parts that are wanted, in their order; the scheduler alone always is."""
    options = run.options
    dice = random.Random(options.seed)
    drawn = lives(data_folder(), GPU_GB)
    await run.note("scheduler alone", lambda: _baseline(run))
    if "lone" in options.phases:
        await lone(run)
    if "burst" in options.phases:
        await run.note("burst", lambda: _burst(run, drawn, dice))
        await run.crowd.remove(*run.parts["burst"].pods)
    if "steady" in options.phases:
        await _steady(run, drawn, dice)
    if "unplaceable" in options.phases:
        await run.note("unplaceable", lambda: _unplaceable(run))


async def _baseline(run: Run) -> list[str]:
    """As many pods as the burst has, as fast, without slices."""
    names = [f"plain-{n}" for n in range(run.options.burst)]
    await asyncio.gather(*(run.make_plain(name) for name in names))
    await run.all_bound(names)
    await run.crowd.remove(*names, grace_seconds=0)
    return names


async def _burst(run: Run, drawn: Sequence[Life], dice: random.Random) -> list[str]:
    chosen: list[Life] = []
    while len(chosen) < run.options.burst:
        life = dice.choice(drawn)
        if sum(each.gb for each in chosen) + life.gb > _BURST_SHARE * run.stand.capacity_gb:
            break
        chosen.append(life)
    names = [f"burst-{n}" for n in range(len(chosen))]
    pairs = zip(names, chosen, strict=True)
    await asyncio.gather(*(run.make(name, life, forever=True) for name, life in pairs))
    await run.all_bound(names)
    return names


async def _steady(run: Run, drawn: Sequence[Life], dice: random.Random) -> None:
    options = run.options
    coming = steady(
        drawn,
        capacity_gb=run.stand.capacity_gb,
        load=options.load,
        rate=options.rate,
        seconds=options.seconds,
        dice=dice,
    )

    async def fill() -> list[str]:
        names = [f"first-{n}" for n in range(len(coming.first))]
        pairs = zip(names, coming.first, strict=True)
        # They would have come over a long time: their lives begin when the run does.
        await asyncio.gather(*(run.make(name, life) for name, life in pairs))
        enough = len(names) if options.load < FULL else 0.9 * len(names)
        await run.crowd.until(
            lambda: sum(run.crowd.pods[n].bound is not None for n in names) >= enough,
            options.patience,
            "the GPUs are filled",
        )
        return names

    await run.note(STEADY_FLOOR, lambda: _steady_baseline(run, coming))
    await run.note("fill", fill)
    await run.note("steady", lambda: _come(run, coming))


async def _steady_baseline(run: Run, coming: Arrivals) -> list[str]:
    """Pods without slices come as the first of those with slices will."""
    times = [at for at, _ in coming.later if at < _BASELINE_SECONDS]
    names = [f"plain-later-{n}" for n in range(len(times))]
    await _one_by_one(times, lambda number: run.make_plain(names[number]))
    await run.all_bound(names)
    await run.crowd.remove(*names, grace_seconds=0)
    return names


async def _come(run: Run, coming: Arrivals) -> list[str]:
    names = [f"later-{n}" for n in range(len(coming.later))]
    sampling = asyncio.create_task(_sample(run))
    try:
        await _one_by_one(
            [at for at, _ in coming.later],
            lambda number: run.make(names[number], coming.later[number][1]),
        )
    finally:
        sampling.cancel()
        await asyncio.wait({sampling})
    return names


async def _one_by_one(
    times: Sequence[float], make: Callable[[int], Coroutine[Any, Any, None]]
) -> None:
    """Begins to make each pod at its time, in seconds from now."""
    began = time.monotonic()
    making = []
    for number, at in enumerate(times):
        await asyncio.sleep(began + at - time.monotonic())
        making.append(asyncio.create_task(make(number)))
    await asyncio.gather(*making)


async def _sample(run: Run) -> None:
    for number in count():
        stranded = float("nan")
        if number % _STRANDED == 0:
            stranded = await asyncio.to_thread(stranded_gb, run.stand.core.planner_ops)
        run.samples.append(take(run.crowd.pods, stranded))
        await asyncio.sleep(1.0)


async def _unplaceable(run: Run) -> list[str]:
    """Pods that come one after another, and of which none finds room."""
    options = run.options
    life = Life(options.waiting_gb, 100, 100, 0.0)
    names = [f"waiting-{n}" for n in range(options.waiting)]
    times = [number / options.rate for number in range(options.waiting)]
    await _one_by_one(times, lambda number: run.make(names[number], life, forever=True))
    pods = run.crowd.pods
    await run.crowd.until(
        lambda: all(pods[name].told or pods[name].bound for name in names),
        options.patience,
        "every pod is told why it waits",
    )
    return names
