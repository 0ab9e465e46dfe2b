"""What the chart renders to, line by line, so that every change of it is seen in review.

`MPSLICE_GOLDEN=write` writes the files anew.
"""

import os
import subprocess
from pathlib import Path

import pytest

from hack.cluster.parts import Parts
from tests.chart import CHART
from tests.waiting import DEADLINE

GOLDEN = Path(__file__).parent / "golden"

# The dashboard is a file of its own, and would be most of each golden file.
COMMON = ("--set=monitoring.dashboards.enabled=false",)
CASES: dict[str, tuple[str, ...]] = {
    "default": (),
    "cert-manager": ("--set=tls.mode=cert-manager", "--set=monitoring.enabled=always"),
    "guarded": (
        "--set=tls.mode=secret,mps.hostIPC=false,mps.compute=proportional,runtimeClassName=nvidia",
        "--set=admission.failurePolicy=Ignore,admission.enforcement=warn,admission.devShm=strip",
        "--set=admission.workloads=false,webhook.hostNetwork=true,webhook.securePort=9443",
        "--set=webhook.clientCA=-----BEGIN CERTIFICATE-----,webhook.clientNames={kube-apiserver}",
        "--set=imagePullSecrets[0].name=pull,image.repository=registry.example.com/mpslice",
        "--set=networkPolicies.apiServerPorts={443,6443},uninstall.refuseWhileUsed=false",
        "--set=planner.ui.enabled=true,quota.enabled=true",
        "--set=verify.nodes={n1}",
    ),
    "simulated": (
        "--set=simulatedGPUs[0].uuid=GPU-1,simulatedGPUs[0].memoryMiB=81920",
        "--set=networkPolicies.enabled=false,nodeAgent.ownNodeOnly=false,planner.ownWritesOnly=false",
        "--set=webhook.ownWritesOnly=false,admission.podSecurity.clusterDefault=baseline",
        "--set=admission.policy.enabled=false,priorityClasses.create=false",
        "--set=admission.podSecurity.enabled=false",
    ),
}


def rendered(helm: Path, *arguments: str) -> str:
    command = [str(helm), "template", "mpslice", str(CHART), "--namespace=mpslice-system"]
    done = subprocess.run(
        [*command, *COMMON, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", CASES)
def test_chart_renders_to_the_golden_file(cluster_parts: Parts, name: str) -> None:
    golden = GOLDEN / f"{name}.yaml"
    text = rendered(cluster_parts.helm, *CASES[name])
    if os.environ.get("MPSLICE_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


def test_rendering_twice_gives_the_same(cluster_parts: Parts) -> None:
    arguments = CASES["cert-manager"]
    assert rendered(cluster_parts.helm, *arguments) == rendered(cluster_parts.helm, *arguments)
