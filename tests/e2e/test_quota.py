"""Quota in gb on a real node: it offers its gb, slice pods run with theirs, and a quota holds."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hack.cluster import programs
from hack.cluster.layout import CHECKOUT
from hack.cluster.node import Node
from hack.cluster.programs import MpslicePrograms
from tests.e2e.cluster import Cluster, slice_pod, until

GB = "mpslice.io/gb"
SWITCH = "MPSLICE_QUOTA"  # the variable of the flag --quota


def offered(cluster: Cluster, node: Node) -> tuple[str | None, str | None]:
    """Of capacity and allocatable."""
    status = cluster.get("node", node.name)["status"]
    return status["capacity"].get(GB), status["allocatable"].get(GB)


def restart(cluster: Cluster, mpslice: MpslicePrograms) -> None:
    """Agent and webhook, with the flag as the environment has it now."""
    for program in (mpslice.nodeagent, mpslice.webhook):
        program.stop()
        program.start()
    until(lambda: programs.gates(cluster.plane), "the webhook serves again")


@pytest.fixture
def counting(
    cluster: Cluster, node: Node, mpslice_programs: MpslicePrograms, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """With `quota.enabled`; afterwards the node offers no gb, as before."""
    monkeypatch.setenv(SWITCH, "true")
    restart(cluster, mpslice_programs)
    yield cluster
    cluster.kubectl("delete", "pods", "--all", "--wait=true")
    monkeypatch.delenv(SWITCH)
    mpslice_programs.nodeagent.stop()
    gone = json.dumps({"status": {part: {GB: None} for part in ("capacity", "allocatable")}})
    cluster.kubectl("patch", "node", node.name, "--subresource=status", "--type=merge", "-p", gone)
    mpslice_programs.nodeagent.start()
    mpslice_programs.webhook.stop()
    mpslice_programs.webhook.start()
    until(lambda: programs.gates(cluster.plane), "the webhook serves again")


def test_node_offers_its_gb_and_a_quota_holds_over_sizes(
    counting: Cluster, node: Node, mpslice_programs: MpslicePrograms
) -> None:
    until(lambda: offered(counting, node) == ("170", "170"), "the node offers 170 gb")
    quota: Any = yaml.safe_load(
        (CHECKOUT / "helm" / "examples" / "resource-quota.yaml").read_text()
    )
    quota["spec"]["hard"] = {f"requests.{GB}": "40"}
    counting.apply(quota)
    until(lambda: counting.get("resourcequota", "gpu-memory").get("status"), "it counts")
    counting.apply(slice_pod("ten", 10), slice_pod("thirty", 30))
    for name, gb in (("ten", "10"), ("thirty", "30")):
        (container,) = counting.running(name)["spec"]["containers"]
        amounts = container["resources"]
        assert (amounts["limits"][GB], amounts["requests"][GB]) == (gb, gb)
    assert f"exceeded quota: gpu-memory, requested: requests.{GB}=1" in counting.refused(
        slice_pod("one", 1)
    )
    before = counting.pod("ten")["status"]["containerStatuses"]
    node.kubelet.stop()
    node.kubelet.start()
    counting.delete("thirty")
    counting.apply(slice_pod("again", 30))
    counting.running("again")
    assert offered(counting, node) == ("170", "170")
    assert counting.pod("ten")["status"]["containerStatuses"] == before


def test_pods_of_both_kinds_run_while_it_is_turned_on_and_off(
    cluster: Cluster,
    node: Node,
    mpslice_programs: MpslicePrograms,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster.apply(slice_pod("before", 80))
    before = cluster.running("before")
    request.getfixturevalue("counting")
    until(lambda: offered(cluster, node) == ("170", "170"), "the node offers 170 gb")
    # 80 of its 170 gb are taken by a pod that the scheduler's arithmetic does not know of.
    cluster.apply(slice_pod("during", 85))
    during = cluster.running("during")
    monkeypatch.setenv(SWITCH, "false")
    restart(cluster, mpslice_programs)
    cluster.apply(slice_pod("after", 5))
    assert GB not in cluster.running("after")["spec"]["containers"][0]["resources"]["requests"]
    assert offered(cluster, node) == ("170", "170")  # pods that wait may still ask for it
    for name, pod in (("before", before), ("during", during)):
        statuses = cluster.pod(name)["status"]["containerStatuses"]
        assert statuses == pod["status"]["containerStatuses"]
