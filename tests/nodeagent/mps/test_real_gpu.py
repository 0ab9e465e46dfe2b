"""Two slices of 10 and 20 gb on a real GPU, whose settings are left as they are."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.plugin import do_without

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.nodeagent.mps.real"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        pytest.fail(done.stderr[-3000:])
    if "error" in found:
        do_without("gpu", found["error"])
    print(json.dumps(found, indent=2))  # noqa: T201  what the page on MPS is to record
    return found


def test_each_process_gets_its_limit_and_no_more(found: dict[str, Any]) -> None:
    """The limit counts what CUDA itself allocates too, so a process gets somewhat less."""
    for limit, filled in zip(found["limits_mib"], found["filled"], strict=True):
        assert filled["refused_with"] == 2
        assert 0.9 * limit < filled["allocated_mib"] <= limit


def test_what_nvml_shows_is_the_limit_within_three_percent(found: dict[str, Any]) -> None:
    if None in found["shown_mib"]:
        do_without("gpu", "NVML lists processes of another PID namespace here")
    for limit, shown in zip(found["limits_mib"], found["shown_mib"], strict=True):
        assert 0.97 * limit <= shown <= limit


def test_program_sees_its_limit_as_what_is_free(found: dict[str, Any]) -> None:
    for limit, told in zip(found["limits_mib"], found["told"], strict=True):
        assert told["free_mib"] <= limit


def test_program_of_another_user_is_not_served_meanwhile(found: dict[str, Any]) -> None:
    assert found["stranger"] != "served"


def test_killed_program_harms_no_other(found: dict[str, Any]) -> None:
    assert found["after_a_kill"] == {"works": True}
    assert found["newcomer"]["refused_with"] == 2


def test_nothing_is_left_and_the_compute_mode_is_as_it_was(found: dict[str, Any]) -> None:
    assert found["handed_back"] is True
    assert found["mode_after"] == found["mode"]
