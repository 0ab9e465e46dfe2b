"""Which GPUs are left alone, by what others say of them and by what they are."""

from dataclasses import replace

import pytest

from mpslice.gpus import GpuUuid
from nodeagent.gpus.refusals import (
    Claims,
    foreign_gpus,
    refusals,
    unknown_entries,
    with_refusals,
)
from nodeagent.hardware import ComputeCapability, Gpu
from tests.nodeagent.conftest import AMPERE

A = Gpu(GpuUuid("GPU-aaaa"), 0, "A100", 81920, 626, AMPERE, minor=3)
B = Gpu(GpuUuid("GPU-bbbb"), 1, "A100", 81920, 626, AMPERE, minor=2)
BOTH = (A, B)


def reasons(gpus: tuple[Gpu, ...], claims: Claims) -> dict[str, str]:
    return {uuid: refusal.reason for uuid, refusal in refusals(gpus, claims).items()}


def test_gpus_that_nobody_else_wants_are_ours() -> None:
    assert reasons(BOTH, Claims()) == {}


@pytest.mark.parametrize("entry", ["1", "GPU-bbbb"])
def test_excluded_by_index_or_uuid(entry: str) -> None:
    assert reasons(BOTH, Claims(frozenset({entry, "7"}))) == {B.uuid: "Excluded"}


def test_entries_that_name_no_gpu_are_found() -> None:
    assert unknown_entries(["0", "GPU-bbbb", "7", "GPU-cccc"], BOTH) == ["7", "GPU-cccc"]


def test_mig_mode_and_gpus_before_volta_are_left_alone() -> None:
    pascal = replace(B, compute_capability=ComputeCapability(6, 1))
    volta = replace(B, uuid=GpuUuid("GPU-cccc"), compute_capability=ComputeCapability(7, 0))
    found = refusals((replace(A, mig=True), pascal, volta), Claims())
    assert {uuid: refusal.reason for uuid, refusal in found.items()} == {
        A.uuid: "MigMode",
        B.uuid: "TooOld",
    }
    assert "generation 6.1" in found[B.uuid].why


def test_gpu_of_which_nothing_is_left_for_slices_is_left_alone() -> None:
    """Its slices would be of 0 MiB, which the control program takes for no limit at all."""
    typo = Claims(reserved_mib=256 * 1024)  # 256Gi for 256Mi
    assert reasons(BOTH, typo) == {A.uuid: "NothingLeft", B.uuid: "NothingLeft"}
    why = refusals(BOTH, typo)[A.uuid].why
    assert why == "--reserved-memory and the driver leave 0 of its 81920 MiB"
    least = 81920 - 626 - 85  # what leaves 1 MiB for each gb
    assert reasons(BOTH, Claims(reserved_mib=least)) == {}
    assert len(reasons(BOTH, Claims(reserved_mib=least + 1))) == 2


def test_foreign_partitioner_stands_for_every_gpu() -> None:
    assert reasons(BOTH, Claims(partitioner="nos is here")) == dict.fromkeys(
        (A.uuid, B.uuid), "ForeignPartitioner"
    )


@pytest.mark.parametrize(
    ("resource", "id_"),
    [
        ("nvidia.com/gpu", "GPU-bbbb"),  # NVIDIA's plugin
        ("nvidia.com/gpu.shared", "GPU-bbbb::3"),  # its replicas
        ("nvidia.com/gpu", "GPU-bbbb-7"),  # HAMi's
        ("nvidia.com/gpu", "nvidia2"),  # GKE's: the minor number
        ("nvidia.com/gpu", "nvidia2/vgpu0"),
        ("nvidia.com/mig-1g.10gb", "MIG-GPU-bbbb/7/0"),  # drivers before 470
        ("example.com/half-a-gpu", "GPU-bbbb"),  # whoever else names it
    ],
)
def test_gpu_that_a_device_id_names_is_somebody_elses(resource: str, id_: str) -> None:
    assert foreign_gpus(BOTH, {resource: frozenset({id_})}, {}) == {B.uuid: resource}


def test_ids_that_name_no_gpu_count_against_all() -> None:
    devices = {"nvidia.com/gpu": frozenset({"GPU-aaaa", "7"})}
    assert foreign_gpus(BOTH, devices, {}).keys() == {A.uuid, B.uuid}


def test_whole_gpus_that_only_the_node_counts_count_against_all() -> None:
    assert foreign_gpus(BOTH, {}, {"nvidia.com/gpu": 2}).keys() == {A.uuid, B.uuid}
    assert foreign_gpus(BOTH, {}, {"nvidia.com/gpu": 0}) == {}


def test_mig_devices_count_against_the_gpus_in_mig_mode() -> None:
    devices = {"nvidia.com/mig-1g.10gb": frozenset({"MIG-0123"})}
    mig = replace(A, mig=True)
    assert foreign_gpus((mig, B), devices, {}).keys() == {A.uuid}
    assert foreign_gpus(BOTH, devices, {}).keys() == {A.uuid, B.uuid}


def test_other_peoples_devices_and_our_own_slices_count_against_none() -> None:
    devices = {
        "nvidia.com/gpu-10gb": frozenset({"GPU-aaaa::10::0"}),
        "example.com/nic": frozenset({"eth0"}),
    }
    assert foreign_gpus(BOTH, devices, {"nvidia.com/gpu-10gb": 1}) == {}


def test_that_a_gpu_is_left_alone_says_more_than_its_health_and_hides_it_from_nobody() -> None:
    sick = replace(A, reason="XidError", detail="Xid 48")
    claims = Claims(excluded=frozenset({"0"}))
    left, other = with_refusals((sick, B), refusals((sick, B), claims))
    assert (left.objection, left.works, left.healthy) == ("Excluded", False, False)
    assert other == B
