"""The kubelet's checkpoint, as 1.36 writes it, and everything else that may stand there."""

import base64
import json
from pathlib import Path

import pytest

from mpslice.gpus import DeviceId
from nodeagent.kubelet.checkpoint import Checkpoint, parse_checkpoint, read_checkpoint
from nodeagent.kubelet_api import deviceplugin_v1beta1_pb2 as plugin_api
from nodeagent.slices.evidence import Claim

ID = "GPU-00000000-0000-0000-0000-000000000001::10::0"
WRITTEN = {
    "Data": {
        "PodDeviceEntries": [
            {
                "PodUID": "ddb8d80d-cdb8-4087-9479-d0ebc54fe87e",
                "ContainerName": "main",
                "ResourceName": "nvidia.com/gpu-10gb",
                "DeviceIDs": {"-1": [ID]},
                "AllocResp": "CiEKF01QU0xJQ0VfTUVNT1JZX0ZSQUNUSU9O",
            },
            {
                "PodUID": "ddb8d80d-cdb8-4087-9479-d0ebc54fe87e",
                "ContainerName": "other",
                "ResourceName": "example.com/thing",
                "DeviceIDs": {"0": ["thing-1"]},
                "AllocResp": "",
            },
        ],
        "RegisteredDevices": {"nvidia.com/gpu-10gb": [ID], "nvidia.com/gpu": ["GPU-x::0"]},
    },
    "Checksum": 930950193,
}


def test_our_slices_are_found_and_other_peoples_devices_are_not() -> None:
    device = DeviceId.parse(ID)
    uid = "ddb8d80d-cdb8-4087-9479-d0ebc54fe87e"
    assert parse_checkpoint(json.dumps(WRITTEN).encode()) == Checkpoint(
        (Claim(device, "main", uid=uid),), frozenset({device}), complete=True
    )


@pytest.mark.parametrize(
    ("variable", "foreign"),
    [("MPSLICE_MEMORY_MIB", False), ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", True)],
)
def test_slice_that_another_plugin_gave_away_under_our_name_is_its_own(
    variable: str, foreign: bool
) -> None:
    answer = plugin_api.ContainerAllocateResponse(envs={variable: "0=10G"}).SerializeToString()
    entry = {
        "PodUID": "uid",
        "ContainerName": "main",
        "ResourceName": "nvidia.com/gpu-10gb",
        "DeviceIDs": {"0": [ID]},
        "AllocResp": base64.b64encode(answer).decode(),
    }
    found = parse_checkpoint(json.dumps({"Data": {"PodDeviceEntries": [entry]}}).encode())
    claims = (Claim(DeviceId.parse(ID), "main", uid="uid"),)
    assert (found.claims, found.foreign) == (((), claims) if foreign else (claims, ()))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"Data": 3}',
        b'{"Data": {"PodDeviceEntries": [{}]}}',
        b"\xff",
    ],
)
def test_anything_else_is_no_evidence(text: bytes) -> None:
    assert parse_checkpoint(text) == Checkpoint()


def test_empty_lists_are_null_in_go() -> None:
    text = (
        b'{"Data": {"PodDeviceEntries": null, "RegisteredDevices": {"nvidia.com/gpu-1gb": null}}}'
    )
    assert parse_checkpoint(text) == Checkpoint(complete=True)


def test_missing_file_is_no_evidence(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "kubelet_internal_checkpoint") == Checkpoint()


def test_id_under_the_wrong_size_is_left_out() -> None:
    text = json.dumps({"Data": {"RegisteredDevices": {"nvidia.com/gpu-20gb": [ID]}}}).encode()
    assert parse_checkpoint(text) == Checkpoint(complete=True)
