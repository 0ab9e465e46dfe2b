"""The recorded session (docs/session.md), played again: every command prints what the page shows.

One cluster of its own, because a planner and `status` take everything in it for their business.
"""

import difflib
import logging
import random
import re
import time
from collections.abc import Iterator

import pytest

from hack.cluster import controlplane, lifecycle
from hack.cluster.controlplane import ControlPlane
from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from planner.model.plan import Cause
from tests.cli.session.page import PAGE, Typed, record
from tests.cli.session.pods import GPUS, NOT_PLAYED, holding, waiting
from tests.cli.session.world import World

log = logging.getLogger(__name__)

_SECONDS = 120.0
"""Until the cluster has come to rest after a step: words on a pod may be a minute old."""


@pytest.fixture
def plane(cluster_parts: Parts, cluster_say: Say) -> Iterator[ControlPlane]:
    with lifecycle.owned(cluster_say) as cluster:
        found = controlplane.start(cluster, cluster_parts, cluster_say)
        yield found
        for program in found.programs:
            program.stop()


def test_cluster_has_five_nodes_forty_gpus_and_sixty_pods() -> None:
    earlier = 3  # of the scenes before the cluster is in use
    assert len(GPUS) == 5
    assert sum(map(len, GPUS.values())) == 40
    assert len(holding()) + len(waiting()) + earlier == 60


def test_why_is_asked_for_a_pod_of_each_cause() -> None:
    """A cause is neither forgotten on the page nor in the list of those that cannot be played."""
    answered = re.findall(r"^Pod \S+: (\w+): ", PAGE.read_text(), re.MULTILINE)
    assert {*answered} | NOT_PLAYED.keys() == {str(cause) for cause in Cause}
    assert not {*answered} & NOT_PLAYED.keys()


async def test_every_command_prints_what_the_page_shows(plane: ControlPlane) -> None:
    page = PAGE.read_text()
    seed = random.randrange(2**32)
    log.warning("slices are handed out by random.Random(%s)", seed)
    async with World.of(plane, random.Random(seed)) as world:

        async def as_shown(typed: Typed) -> str:
            deadline = time.monotonic() + _SECONDS
            printed = await world.answer(typed)
            while typed.looks and printed != typed.shown and time.monotonic() < deadline:
                printed = await world.answer(typed)
            difference = difflib.unified_diff(typed.shown.split("\n"), printed.split("\n"), n=1)
            assert printed == typed.shown, f"{typed.text}\n" + "\n".join(difference)
            return printed

        assert await record(page, world.do, as_shown) == page
