"""Each fault once, several in a run, on the real control plane; `make faults` plays many seeds."""

import random

import pytest

from hack.cluster import mps
from hack.cluster.errors import Unavailable
from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from tests.cluster.plugin import do_without
from tests.faults.faults import FAULTS
from tests.faults.run import play
from tests.faults.script import script_of, scripts_of_all
from tests.faults.stand import stand
from tests.faults.supervised import SUITE

_SEED = 1
_RUNS = 2


@pytest.fixture(scope="module")
def control_program() -> None:
    """NVIDIA's can be had here."""
    try:
        mps.control_program(SUITE)
    except Unavailable as error:
        do_without("mps", str(error))


@pytest.mark.usefixtures("control_program")
async def test_after_each_fault_all_is_well(cluster_parts: Parts, cluster_say: Say) -> None:
    async with stand(cluster_parts, cluster_say, random.Random(_SEED)) as here:
        for script in scripts_of_all(_RUNS, _SEED):
            outcome = await play(here, script)
            told = "\n".join((*outcome.history, *outcome.problems))
            assert not outcome.problems, f"{script}\n{told}"
            assert outcome.pods == len(script.arrivals)
            assert sum(outcome.coverage.values()) == len(script.hits)


def test_scripts_of_all_have_each_fault_once() -> None:
    hit = [hit.fault.name for script in scripts_of_all(_RUNS, _SEED) for hit in script.hits]
    assert sorted(hit) == sorted(fault.name for fault in FAULTS)


def test_row_of_seeds_has_each_fault() -> None:
    first = 1_000
    scripts = [script_of(seed) for seed in range(first, first + len(FAULTS))]
    assert {hit.fault for script in scripts for hit in script.hits} == set(FAULTS)


@pytest.mark.parametrize("seed", [0, 1, 2, 77])
def test_same_seed_is_the_same_script(seed: int) -> None:
    assert script_of(seed) == script_of(seed)
    assert script_of(seed) != script_of(seed + len(FAULTS))
