"""That what must not be is found where the kubelet sees it."""

from pathlib import Path
from typing import cast

import pytest

from mpslice.gpus import DeviceId
from mpslice.slices import SliceSize
from nodeagent.slices.pods import Need, PodFacts
from tests.api.kube import ModelKube
from tests.faults.kubelet import Kubelet
from tests.nodeagent.fake_kubelet import Admitted, Client, FakeKubelet

RESOURCE = "nvidia.com/gpu-20gb"
SLICE = "GPU-n0-0::20::0"
POD = PodFacts("default/p", "uid", (Need("main", SliceSize(20)),), node="n0")


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
def kubelet(tmp_path: Path, problems: list[str]) -> Kubelet:
    fake = FakeKubelet(tmp_path, tmp_path / "podres.sock")
    return Kubelet("n0", fake, {"GPU-n0-0": 40}, ModelKube(), problems.append)


def test_used_slice_that_is_listed_no_more_is_found(kubelet: Kubelet, problems: list[str]) -> None:
    kubelet._fake.admitted.append(Admitted(POD.key, POD.uid, "main", RESOURCE, [SLICE]))
    kubelet._fake.devices[RESOURCE] = {SLICE: False}
    kubelet._fake.on_list(RESOURCE)
    assert not problems
    kubelet._fake.devices[RESOURCE] = {}
    kubelet._fake.on_list(RESOURCE)
    assert problems == [f"slice {SLICE} is listed no more and default/p has it"]


def test_more_than_the_gpu_has_is_found(kubelet: Kubelet, problems: list[str]) -> None:
    devices = {f"GPU-n0-0::20::{n}": n < 2 for n in range(3)}
    kubelet._fake.devices[RESOURCE] = devices
    kubelet._fake.on_list(RESOURCE)
    assert not problems  # the third is hidden, and about to be withdrawn
    devices["GPU-n0-0::20::2"] = True
    kubelet._fake.on_list(RESOURCE)
    assert problems[0].startswith("GPU-n0-0 has 40 gb and containers can have 60")


def test_slice_is_offered_or_hidden_while_a_plugin_serves_it(kubelet: Kubelet) -> None:
    """What an agent that was killed had carved counts for minutes still, and nobody offers it."""
    fake = kubelet._fake
    slices, nothing = frozenset({DeviceId.parse(SLICE)}), frozenset[DeviceId]()
    fake.devices[RESOURCE] = {SLICE: False}
    assert (kubelet.offered(), kubelet.hidden()) == (nothing, nothing)
    fake._clients[RESOURCE] = cast(Client, None)  # connected; nothing is asked of it here
    assert (kubelet.offered(), kubelet.hidden()) == (nothing, slices)
    fake.devices[RESOURCE] = {SLICE: True}
    assert (kubelet.offered(), kubelet.hidden()) == (slices, nothing)


async def test_refused_pod_is_found_unless_nobody_serves(
    kubelet: Kubelet, problems: list[str]
) -> None:
    kubelet.away += 1
    assert not await kubelet.admit(POD)
    assert (kubelet.excused, problems) == (1, [])
    kubelet.away -= 1
    assert not await kubelet.admit(POD)
    assert problems[0].startswith("default/p was bound to a slice that n0 has not got")
