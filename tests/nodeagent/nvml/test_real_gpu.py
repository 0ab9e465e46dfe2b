"""NVML on a machine with a real GPU, whose settings are only read."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.plugin import do_without
from tests.waiting import DEADLINE

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def read() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.nodeagent.nvml.real"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    found: dict[str, Any] = json.loads(done.stdout)
    if "error" in found:
        do_without("gpu", found["error"])
    return found


def test_every_gpu_is_read(read: dict[str, Any]) -> None:
    assert read["gpus"]
    for gpu in read["gpus"]:
        assert gpu["uuid"].startswith("GPU-")
        assert len(gpu["uuid"]) == 40
        assert gpu["memory_mib"] > gpu["reserved_mib"] >= 0
        assert gpu["compute_capability"] >= [3, 0]
        assert gpu["reason"] in (None, "ResetRequired")
    assert [gpu["index"] for gpu in read["gpus"]] == list(range(len(read["gpus"])))


def test_compute_mode_recovery_and_xids_are_read(read: dict[str, Any]) -> None:
    assert set(read["compute_modes"].values()) <= {"DEFAULT", "PROHIBITED", "EXCLUSIVE_PROCESS"}
    assert set(read["needs_recovery"].values()) <= {True, False, None}
    assert read["xid"] is None
