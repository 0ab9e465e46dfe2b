"""Pods that come one by one to a cluster that does nothing else: what each of them waits."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from benchmarks.cluster.crowd import NAMESPACE
from benchmarks.cluster.load import Life
from benchmarks.cluster.run import Run
from benchmarks.cluster.stand import GPU_GB, GPUS
from mpslice.kube.api import NODE_LAYOUTS

FLOOR: Final = "lone: scheduler alone"
KINDS: Final = ("lone: existing size", "lone: new size", "lone: withdrawal")

_IDLE: Final = 30.0  # seconds within which a slice is free again after its pod


async def lone(run: Run) -> None:
    """A part for each kind of pod, and one for pods that the scheduler alone binds."""
    existing, new, withdrawal = KINDS

    async def plain(name: str, _: int) -> None:
        await run.make_plain(name)

    async def pod(name: str, number: int) -> None:
        await _pod(run, name, 1 + number)

    names = _names(run, "plain")
    await run.note(FLOOR, partial(_each, run, names, plain, plain=True))
    await run.note(new, partial(_each, run, _names(run, "new"), pod))
    # These pods have the same sizes as those before: their slices stand by now.
    await run.note(existing, partial(_each, run, _names(run, "old"), pod))
    await _withdrawals(run, withdrawal)


def _names(run: Run, word: str) -> list[str]:
    return [f"lone-{word}-{number}" for number in range(run.options.lone)]


async def _each(
    run: Run, names: list[str], make: Callable[[str, int], Awaitable[None]], *, plain: bool = False
) -> list[str]:
    """One pod after another: the next is made when the slice of the one before is free again."""
    for number, name in enumerate(names):
        await make(name, number)
        await run.all_bound([name])
        node = run.crowd.pods[name].node
        if not plain:
            await _until(run, node, name, used=True)
        await run.crowd.remove(name, grace_seconds=0 if plain else 1)  # no kubelet has plain ones
        if not plain:
            await _until(run, node, name, used=False)
    return names


async def _pod(run: Run, name: str, gb: int, node: str = "") -> None:
    await run.make(name, Life(gb, 100, 100, 0.0), forever=True, node=node)


async def _withdrawals(run: Run, part: str) -> None:
    """All GPUs of a node but one are held, and that one is carved whole: each pod asks for another
    size than the one before, and for this node."""
    node = run.stand.nodes[0]
    holders = [f"lone-holder-{n}" for n in range(GPUS - 1)]
    for name in holders:
        await _pod(run, name, GPU_GB, node)
    await run.all_bound(holders)

    async def one(name: str, number: int) -> None:
        await _pod(run, name, GPU_GB - number % 2, node)

    await _each(run, ["lone-first-0", "lone-first-1"], one)  # of new sizes as well
    await run.note(part, partial(_each, run, _names(run, "swap"), one))
    await run.crowd.remove(*holders)


async def _until(run: Run, node: str, name: str, *, used: bool) -> None:
    """Waits until the node's layout tells that the pod has a slice, or has none any more."""
    deadline = time.monotonic() + _IDLE
    while True:
        layout = await run.crowd.kube.read(NODE_LAYOUTS, node)
        slices = (s for gpu in layout["status"]["gpus"] for s in gpu.get("slices", ()))
        if any(s.get("pod") == f"{NAMESPACE}/{name}" for s in slices) is used:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {_IDLE:.0f} s: slice of {name} on {node}, used: {used}")
        await asyncio.sleep(0.02)
