"""What `helm install` prints, by the values."""

import subprocess

import pytest

from hack.cluster.controlplane import ControlPlane
from tests.chart import CHART
from tests.waiting import DEADLINE

PRIVILEGED = "pod-security.kubernetes.io/enforce=privileged"
OURS = "mpslice.io/pod-security=baseline-except-host-ipc"
WARNING = "`privileged` alone lets everybody who creates pods there become root on the nodes"


def notes(plane: ControlPlane, *values: str) -> str:
    """The notes of an installation that is not made."""
    command = [str(plane.parts.helm), f"--kubeconfig={plane.kubeconfig}", "install", "mpslice"]
    # Other tests may have applied the chart here without helm, which would be somebody else's.
    options = ["--dry-run=client", "--namespace=mpslice-system", "--take-ownership"]
    done = subprocess.run(
        [*command, str(CHART), *options, *(f"--set={value}" for value in values)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return done.stdout.partition("\nNOTES:\n")[2]


def test_the_notes_give_both_labels_with_ours_first(control_plane: ControlPlane) -> None:
    said = notes(control_plane)
    assert said.index(OURS) < said.index(PRIVILEGED)
    assert WARNING in said
    assert "better set mps.hostIPC=false" in said


def test_without_the_policy_they_say_what_the_label_costs(control_plane: ControlPlane) -> None:
    said = notes(control_plane, "admission.podSecurity.enabled=false")
    assert OURS not in said
    assert f"no exception smaller than the label {PRIVILEGED}" in said
    assert WARNING in said


def test_without_host_ipc_there_is_nothing_to_say(control_plane: ControlPlane) -> None:
    said = notes(control_plane, "mps.hostIPC=false")
    assert "my-slice" in said
    assert "Pod Security" not in said


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_the_clusters_own_level_is_named(control_plane: ControlPlane, level: str) -> None:
    said = notes(control_plane, f"admission.podSecurity.clusterDefault={level}")
    assert f"this cluster enforces `{level}` by default" in said


def test_the_page_is_named_where_there_is_one(control_plane: ControlPlane) -> None:
    assert "port-forward" not in notes(control_plane)
    said = notes(control_plane, "planner.ui.enabled=true", "planner.ui.port=9000")
    assert "deployment/mpslice-planner 9000\n" in said


def test_quota_comes_with_what_a_limit_range_needs(control_plane: ControlPlane) -> None:
    assert "requests.mpslice.io/gb" not in notes(control_plane)
    said = notes(control_plane, "quota.enabled=true")
    assert "bounds a namespace by requests.mpslice.io/gb" in said
    assert 'needs default and defaultRequest "0"' in said
