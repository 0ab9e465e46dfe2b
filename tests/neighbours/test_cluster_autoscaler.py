"""cluster-autoscaler's own program, with Cluster API for its cloud: from what `kubectl mpslice
node-template` prints it knows which node group, and how many nodes of it, pending slice pods need.

The project releases it in an image alone, and a proxy serves no version of its Go module, so
MPSLICE_AUTOSCALER_PROGRAM names the program, copied out of that image.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import controlplane, lifecycle, network, programs
from hack.cluster.api import healthy
from hack.cluster.controlplane import ControlPlane
from hack.cluster.layout import CHECKOUT
from hack.cluster.parts import Parts
from hack.cluster.processes import ProcessSpec, Program
from hack.cluster.progress import Say
from hack.cluster.waiting import wait_until
from tests.e2e.cluster import Cluster, slice_pod, until
from tests.neighbours import cluster_api
from tests.waiting import DEADLINE

Json = dict[str, Any]
VARIABLE = "MPSLICE_AUTOSCALER_PROGRAM"
GB = "mpslice.io/gb"
_CAPACITY = "capacity.cluster-autoscaler.kubernetes.io"
LIKE = "like-this"
"""A node that is not handed over, so that every slice pod needs another one."""
_TWO_A100 = {
    "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
    "nvidia.com/gpu.memory": "81920",
    "nvidia.com/gpu.count": "2",
}


@dataclass(frozen=True)
class Scaling:
    """A cluster in which no node has slices, with the autoscaler at work."""

    cluster: Cluster
    autoscaler: Program
    counting: bool
    """Whether slice pods ask for their gb themselves: `quota.enabled`."""

    def template(self, *sizes: int) -> Json:
        """What the plugin prints for these sizes."""
        command = [
            *(sys.executable, "-m", "cli.main", "node-template", f"--like={LIKE}"),
            *(f"--size={size}gb" for size in sizes),
            "--for=clusterapi",
            "--output=json",
            f"--kubeconfig={self.cluster.plane.kubeconfig}",
        ]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found: Json = json.loads(done.stdout)["clusterapi"]
        return found

    def wait_for_a_node(self, *pods: Json) -> None:
        """Makes the pods; returns when kube-scheduler has called each of them Unschedulable."""
        self.cluster.apply(*pods)

        def unschedulable() -> bool:
            found = self.cluster.get("pods")["items"]
            reasons = [
                condition.get("reason")
                for pod in found
                for condition in pod["status"].get("conditions") or ()
                if condition["type"] == "PodScheduled"
            ]
            return reasons == ["Unschedulable"] * len(pods)

        until(unschedulable, "every pod is Unschedulable")

    def until_grown(self, group: str, size: int) -> None:
        """Waits until the autoscaler has the group of this size for every pod, at once."""
        wanted = f"{group} 0->{size} "
        for pod in self.cluster.get("pods")["items"]:
            name = pod["metadata"]["name"]
            (told, *_) = wait_until(
                partial(self.cluster.events, name, "TriggeredScaleUp"),
                f"the autoscaler adds nodes for {name}",
                seconds=DEADLINE,
                details=lambda: self.autoscaler.last_lines(40),
            )
            assert wanted in told
        assert self.size(group) == size

    def size(self, group: str) -> int:
        return cluster_api.size(self.cluster.plane, group)


@pytest.fixture(scope="module")
def program(neighbour_parts: Parts) -> Path:
    named = os.environ.get(VARIABLE, "")
    if not named:
        pytest.skip(f"cluster-autoscaler is tested where {VARIABLE} names its program")
    return Path(named)


@pytest.fixture(scope="module", params=["false", "true"], ids=["as installed", "quota enabled"])
def at_work(
    request: pytest.FixtureRequest, program: Path, neighbour_parts: Parts, cluster_say: Say
) -> Iterator[tuple[ControlPlane, Program, bool]]:
    """A control plane with webhook, planner and autoscaler, and the one node."""
    counting = request.param == "true"
    with pytest.MonkeyPatch.context() as patch, lifecycle.owned(cluster_say) as cluster:
        patch.setenv("MPSLICE_QUOTA", request.param)  # of the flag --quota
        plane = controlplane.start(cluster, neighbour_parts, cluster_say)
        core = programs.install(plane, cluster_say)
        cluster_api.install(plane)
        make_node(plane, counting)
        autoscaler = _autoscaler(plane, program)
        try:
            for each in (core.webhook, core.planner, autoscaler):
                each.start()
            programs.wait_until_gated(plane, core)
            yield plane, autoscaler, counting
        finally:
            for each in (autoscaler, core.planner, core.webhook, *reversed(plane.programs)):
                each.stop()


def _autoscaler(plane: ControlPlane, program: Path) -> Program:
    (port,) = network.free_ports(1)
    command = (
        str(program),
        "--cloud-provider=clusterapi",
        f"--kubeconfig={plane.kubeconfig}",
        "--leader-elect=false",
        "--scan-interval=1s",
        "--scale-down-enabled=false",
        f"--address=127.0.0.1:{port}",
        "--v=2",
    )
    health = f"http://127.0.0.1:{port}/health-check"
    return Program(
        plane.cluster, ProcessSpec("cluster-autoscaler", command, lambda: healthy(health))
    )


def make_node(plane: ControlPlane, counting: bool) -> None:
    """With the labels of feature discovery; nothing runs on it."""
    node: Json = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": LIKE, "labels": _TWO_A100},
        "spec": {"unschedulable": True},
    }
    plane.api.request("POST", "/api/v1/nodes", node)
    amounts = {"cpu": "96", "memory": "1Ti", "pods": "110", **({GB: "170"} if counting else {})}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
    patch = "application/merge-patch+json"
    plane.api.request("PATCH", f"/api/v1/nodes/{LIKE}/status", {"status": status}, patch)


@pytest.fixture
def scaling(
    at_work: tuple[ControlPlane, Program, bool], request: pytest.FixtureRequest
) -> Iterator[Scaling]:
    plane, autoscaler, counting = at_work
    namespace = f"scaling-{request.session.items.index(request.node)}"
    plane.kubectl("create", "namespace", namespace)
    cluster = Cluster(plane, namespace)
    yield Scaling(cluster, autoscaler, counting)
    cluster.kubectl("delete", "pods", "--all", "--wait=true")
    cluster_api.delete_groups(plane)


def pods(size: int, count: int) -> list[Json]:
    return [slice_pod(f"of-{size}-{number}", size) for number in range(count)]


@pytest.mark.parametrize("sizes", [(40,), (10, 40)], ids=["one size", "two sizes"])
def test_group_that_is_told_to_offer_the_slices_grows_from_zero_by_what_the_pods_need(
    scaling: Scaling, sizes: tuple[int, ...]
) -> None:
    """A node with two such GPUs holds four slices of 40 gb, so five pods need two."""
    told = scaling.template(*sizes)
    # Annotations name one resource at most, beside CPU and memory.
    assert ("machineTemplate" in told) == (len(sizes) > 1 or scaling.counting)
    scaling.wait_for_a_node(*pods(40, 5))
    bare = {key: told["annotations"][f"{_CAPACITY}/{key}"] for key in ("cpu", "memory", "labels")}
    without = {"annotations": {f"{_CAPACITY}/{key}": value for key, value in bare.items()}}
    cluster_api.make_group(scaling.cluster.plane, f"without-{len(sizes)}", without)
    cluster_api.make_group(scaling.cluster.plane, f"with-{len(sizes)}", told)
    scaling.until_grown(f"with-{len(sizes)}", 2)
    assert scaling.size(f"without-{len(sizes)}") == 0


def test_pod_of_a_size_that_no_group_is_told_to_offer_adds_no_node(scaling: Scaling) -> None:
    cluster_api.make_group(scaling.cluster.plane, "tens", scaling.template(10))
    scaling.wait_for_a_node(slice_pod("fifty", 50))
    told = until(lambda: scaling.cluster.events("fifty", "NotTriggerScaleUp"), "it is told")
    assert "1 Insufficient nvidia.com/gpu-50gb" in told[0]
    assert scaling.size("tens") == 0


def test_pods_of_two_sizes_need_the_sum_only_where_they_ask_for_gb(scaling: Scaling) -> None:
    """Four of 40 gb fill a node, and so do sixteen of 10 gb. Told by size alone, the simulation
    counts each GPU once for every size."""
    scaling.wait_for_a_node(*pods(40, 4), *pods(10, 16))
    cluster_api.make_group(scaling.cluster.plane, "both", scaling.template(10, 40))
    scaling.until_grown("both", 2 if scaling.counting else 1)
