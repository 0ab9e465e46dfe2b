"""Each fault once, several in a run, on the real control plane; `make faults` plays many seeds.

It runs where MPSLICE_REQUIRE names `faults`: it takes minutes.
"""

import random

import pytest

from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from tests.cluster.plugin import is_required
from tests.faults.faults import FAULTS
from tests.faults.run import play
from tests.faults.script import script_of, scripts_of_all
from tests.faults.stand import stand

_SEED = 1
_RUNS = 2


@pytest.fixture
def is_asked_for() -> None:
    if not is_required("faults"):
        pytest.skip("faults on a real control plane are played by `make faults`")


@pytest.mark.usefixtures("is_asked_for")
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
