"""Whatever order the agent hears of holders in, it never names one that cannot hold the slice."""

import random

import pytest

from tests.nodeagent import orders
from tests.nodeagent.orders import World

SEEDS = 10_000
PARTS = 8
STEPS = 60


@pytest.mark.parametrize("part", range(PARTS))
def test_holder_that_is_told_is_never_one_that_cannot_be(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(part, SEEDS, PARTS):
        world = World(random.Random(seed))
        monkeypatch.setattr("nodeagent.slices.table.monotonic", lambda world=world: world.now)
        world.run(STEPS)
        wrong = world.wrong or world.settle()
        assert not wrong, f"seed {seed}: {wrong}\n" + "\n".join(world.history)


def test_orders_are_worth_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of step happens, and slices change hands within them."""
    seen: dict[str, int] = {}
    for seed in range(200):
        world = World(random.Random(seed))
        monkeypatch.setattr("nodeagent.slices.table.monotonic", lambda world=world: world.now)
        world.run(STEPS)
        for word in " ".join(world.history).split():
            seen[word] = seen.get(word, 0) + 1
        seen["again"] = seen.get("again", 0) + sum(
            len({p.uid for p in world.pods if p.slice_ == id_}) > 1 for id_ in orders.IDS
        )
    words = ("Allocate", "checkpoint", "read", "restarts", "force-deleted", "again")
    assert {word: seen[word] for word in words if seen[word] < 50} == {}
