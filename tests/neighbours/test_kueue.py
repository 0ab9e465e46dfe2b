"""Kueue in front of mpslice on a real node: one quota in gb over slices of all sizes, for Jobs and
for plain pods, whose two gates are each taken away by the program that put it there."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import controlplane, lifecycle, programs
from hack.cluster import node as nodes
from hack.cluster.layout import CHECKOUT
from hack.cluster.node import Node
from hack.cluster.parts import Parts
from hack.cluster.programs import GATE, SIMULATED_GPUS, MpslicePrograms
from hack.cluster.progress import Say
from tests.cluster import plugin
from tests.docs.test_pages import page
from tests.e2e.cluster import Cluster, slice_pod, until
from tests.neighbours import kueue

pytestmark = pytest.mark.usefixtures("machine_without_node")

Json = dict[str, Any]
GB = "mpslice.io/gb"
QUEUE, TEAM = "team-a", "team-a"
PLANNER = "system:serviceaccount:mpslice-system:mpslice-planner"
_WRITES = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "RequestResponse",
            "verbs": ["create", "update", "patch"],
            "resources": [{"group": "", "resources": ["pods"]}],
        },
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Queued:
    """A namespace with a queue of 200 gb, on a node whose three GPUs hold 255 gb."""

    cluster: Cluster
    node: Node
    audit: Path
    counting: bool
    """Whether slice pods ask for their gb themselves: `quota.enabled`."""

    def gb_of(self, pod: Json) -> str | None:
        """How many gb the pod asks for beside its slice; None where it asks for none."""
        (container,) = pod["spec"]["containers"]
        found: str | None = container["resources"]["requests"].get(GB)
        return found

    def label(self, obj: Json, **annotations: str) -> Json:
        """The object, given to the queue."""
        metadata = {**obj["metadata"]}
        metadata["labels"] = {**metadata.get("labels", {}), kueue.QUEUE_LABEL: TEAM}
        return {**obj, "metadata": {**metadata, "annotations": annotations}}

    def job(self, name: str, pods: int, size: int) -> Json:
        template = slice_pod("pod", size, restartPolicy="Never")
        spec = {
            "parallelism": pods,
            "completions": pods,
            "suspend": True,
            "template": {"spec": template["spec"]},
        }
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
        return self.label(job)

    def pods_of(self, job: str) -> list[Json]:
        found = self.cluster.get("pods", f"--selector=batch.kubernetes.io/job-name={job}")
        pods: list[Json] = found["items"]
        return pods

    def all_run(self, job: str, wanted: int) -> bool:
        pods = [each for each in self.pods_of(job) if each["status"].get("phase") == "Running"]
        assert all(each["spec"]["nodeName"] == self.node.name for each in pods)
        return len(pods) == wanted

    def held_back(self, owner: str) -> str:
        """Why Kueue has not reserved quota for the Workload of this owner; "" where it has."""
        for each in self.cluster.get("workloads.kueue.x-k8s.io")["items"]:
            if any(one["name"] == owner for one in each["metadata"]["ownerReferences"]):
                for condition in (each.get("status") or {}).get("conditions") or ():
                    if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                        return str(condition["message"])
        return ""

    def uses(self, gb: int) -> None:
        until(lambda: kueue.used(self.cluster.plane, QUEUE, GB) == str(gb), f"{gb} gb are used")

    def why(self, *what: str) -> Json:
        command = [sys.executable, "-m", "cli.main", "why", *what, "--output=json"]
        where = f"--namespace={self.cluster.namespace}"
        kubeconfig = f"--kubeconfig={self.cluster.plane.kubeconfig}"
        done = subprocess.run(
            [*command, where, kubeconfig], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
        )
        assert done.stdout, done.stderr
        found: Json = json.loads(done.stdout)
        return found

    def taken_away(self, name: str) -> list[tuple[str, str]]:
        """Which gates of the pod were taken away by whom, in order."""
        found: list[tuple[str, str]] = []
        before: set[str] = set()
        for line in self.audit.read_text().splitlines():
            event = json.loads(line)
            made = event.get("responseObject") or {}
            about = made.get("metadata") or {}
            if event["stage"] != "ResponseComplete" or made.get("kind") != "Pod":
                continue
            if (about.get("namespace"), about.get("name")) != (self.cluster.namespace, name):
                continue
            gates = {gate["name"] for gate in made["spec"].get("schedulingGates") or ()}
            assert not before or gates <= before, "nobody adds a gate later"
            found += [(gate, event["user"]["username"]) for gate in sorted(before - gates)]
            before = gates
        return found


BY_THEIR_OWNERS = [*((gate, kueue.USER) for gate in sorted(kueue.GATES)), (GATE, PLANNER)]


@pytest.fixture(scope="module", params=["false", "true"], ids=["as installed", "quota enabled"])
def running(
    request: pytest.FixtureRequest,
    neighbour_parts: Parts,
    cluster_say: Say,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Node, Path, bool]]:
    """mpslice and Kueue on a node of their own; Kueue counts as `kueue-config` says.

    With `quota.enabled` slice pods ask for their gb themselves, which must not count twice.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPSLICE_QUOTA", request.param)  # of the flag --quota
        folder = tmp_path_factory.mktemp("kueue")
        for node, audit in _running(neighbour_parts, cluster_say, folder):
            yield node, audit, request.param == "true"


def _running(neighbour_parts: Parts, cluster_say: Say, folder: Path) -> Iterator[tuple[Node, Path]]:
    policy = folder / "audit-policy.yaml"
    policy.write_text(json.dumps(_WRITES))
    audit = folder / "audit.log"
    flags = (f"--audit-policy-file={policy}", f"--audit-log-path={audit}")
    with lifecycle.owned(cluster_say) as cluster:
        plane = controlplane.start(cluster, neighbour_parts, cluster_say, apiserver_flags=flags)
        started = [*plane.programs]
        try:
            node = plugin._get("node", lambda: nodes.start(plane, cluster_say))
            started += node.programs
            mpslice = programs.start(plane, node, cluster_say)
            started += mpslice.programs
            three_gpus(Cluster(plane, "default"), node, mpslice)
            with kueue.running(plane, folder / "run", printed_configuration()):
                blocks = page("teams.md").split("```yaml\n")
                (queue,) = (each for each in blocks if "kind: ClusterQueue\n" in each)
                made = yaml.safe_load(queue.partition("```")[0])
                Cluster(plane, "default").apply(kueue.flavor(), made)
                yield node, audit
        finally:
            for program in reversed(started):
                program.stop()


def three_gpus(cluster: Cluster, node: Node, mpslice: MpslicePrograms) -> None:
    """More GPU memory than the quota, so that what is held back is held back by Kueue."""
    third = {**SIMULATED_GPUS[0], "uuid": SIMULATED_GPUS[0]["uuid"][:-1] + "3"}
    mpslice.nodeagent.stop()
    mpslice.simulated_gpus.write_text(yaml.safe_dump({"gpus": [*SIMULATED_GPUS, third]}))
    mpslice.nodeagent.start()

    def offered() -> list[int]:
        status = cluster.layout(node.name).get("status") or {}
        return [gpu["capacityGB"] for gpu in status.get("gpus", ()) if gpu["healthy"]]

    until(lambda: offered() == [85, 85, 85], "the node offers three GPUs")


def printed_configuration() -> Json:
    """The part of Kueue's Configuration that the plugin prints for such GPUs."""
    command = [sys.executable, "-m", "cli.main", "kueue-config", "--gpu=85GB"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    found: Json = yaml.safe_load(done.stdout)["resources"]
    return found


@pytest.fixture
def queued(running: tuple[Node, Path, bool], request: pytest.FixtureRequest) -> Iterator[Queued]:
    node, audit, counting = running
    plane = node.control_plane
    namespace = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:40].strip("-")
    plane.kubectl("create", "namespace", namespace)
    cluster = Cluster(plane, namespace)
    cluster.apply(kueue.local_queue(TEAM, QUEUE))
    found = Queued(cluster, node, audit, counting)
    yield found
    cluster.kubectl("delete", "jobs,pods", "--all", "--wait=true")
    found.uses(0)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def test_jobs_of_all_sizes_share_one_quota_and_one_waits_until_it_is_free(queued: Queued) -> None:
    cluster = queued.cluster
    cluster.apply(queued.job("tens", 10, 10), queued.job("forties", 2, 40))
    until(lambda: queued.all_run("tens", 10), "ten pods of 10 gb run")
    until(lambda: queued.all_run("forties", 2), "two pods of 40 gb run")
    own = {queued.gb_of(pod) for pod in queued.pods_of("forties")}
    assert own == {"40" if queued.counting else None}
    queued.uses(180)
    cluster.apply(queued.job("thirty", 1, 30))
    until(lambda: queued.held_back("thirty"), "Kueue holds the Job back")
    assert f"insufficient unused quota for {GB}" in queued.held_back("thirty")
    assert "10 more needed" in queued.held_back("thirty")
    assert queued.pods_of("thirty") == []
    told = queued.why("job/thirty")
    assert told["reason"] == "Suspended", told
    for pod in queued.pods_of("forties"):
        # The command may be killed with the container that it ends.
        ending = ("exec", pod["metadata"]["name"], "--", "kill", "-TERM", "1")
        cluster.kubectl(*ending, check=False)
    until(lambda: queued.all_run("thirty", 1), "the Job that waited runs")
    queued.uses(130)


def test_size_that_is_not_in_the_configuration_is_not_admitted(queued: Queued) -> None:
    """The page says so, since the queue does not cover such a size."""
    queued.cluster.apply(queued.job("large", 1, 96))
    until(lambda: queued.held_back("large"), "Kueue holds the Job back")
    assert "nvidia.com/gpu-96gb" in queued.held_back("large")


def test_stock_quota_bounds_a_job_that_kueue_has_admitted(queued: Queued) -> None:
    """It counts what slice pods ask for themselves, so it is felt with `quota.enabled` alone."""
    cluster = queued.cluster
    bound = yaml.safe_load((CHECKOUT / "helm" / "examples" / "resource-quota.yaml").read_text())
    bound["spec"]["hard"] = {f"requests.{GB}": "30"}
    cluster.apply(bound)
    until(lambda: cluster.get("resourcequota", "gpu-memory").get("status"), "the quota counts")
    cluster.apply(queued.job("twenties", 2, 20))
    until(lambda: queued.all_run("twenties", 1 if queued.counting else 2), "what may run does")
    queued.uses(40)
    if queued.counting:
        refused = until(lambda: cluster.events("twenties", "FailedCreate"), "the Job is told")
        assert f"exceeded quota: gpu-memory, requested: requests.{GB}=20" in refused[0]


def test_each_gate_of_a_plain_pod_is_taken_away_by_its_owner(queued: Queued) -> None:
    cluster = queued.cluster
    cluster.apply(*(queued.label(slice_pod(name, 80)) for name in ("first", "second")))
    for name in ("first", "second"):
        assert cluster.running(name)["spec"]["nodeName"] == queued.node.name
    cluster.apply(queued.label(slice_pod("held", 50)))
    until(lambda: queued.held_back("held"), "Kueue holds the pod back")
    assert "10 more needed" in queued.held_back("held")
    gates = {gate["name"] for gate in cluster.pod("held")["spec"]["schedulingGates"]}
    assert gates == {*kueue.GATES, GATE}
    told = queued.why("pod/held")
    assert told["reason"] == "Gated", told
    assert told["summary"].endswith(
        "the scheduling gates kueue.x-k8s.io/admission, kueue.x-k8s.io/topology, which are not "
        "mpslice's"
    )
    assert queued.gb_of(cluster.pod("held")) == ("50" if queued.counting else None)
    assert carved(queued, 50) == 0  # it is planned only once it is admitted
    cluster.delete("first")
    cluster.running("held")
    assert carved(queued, 50) == 1
    assert queued.why("pod/held")["reason"] == "Running"
    assert queued.taken_away("held") == BY_THEIR_OWNERS


def carved(queued: Queued, size: int) -> int:
    """How many slices of this size the node has."""
    gpus = queued.cluster.layout(queued.node.name)["status"]["gpus"]
    return sum(each["id"].split("::")[1] == str(size) for gpu in gpus for each in gpu["slices"])


def test_group_of_plain_pods_is_admitted_as_one_and_then_planned(queued: Queued) -> None:
    cluster = queued.cluster
    cluster.apply(*(queued.label(slice_pod(name, 80)) for name in ("first", "second")))
    for name in ("first", "second"):
        cluster.running(name)
    members = [slice_pod(f"member-{number}", 25) for number in range(3)]
    for member in members:
        member["metadata"]["labels"] = {"kueue.x-k8s.io/pod-group-name": "group"}
    total = {"kueue.x-k8s.io/pod-group-total-count": "3"}
    cluster.apply(*(queued.label(member, **total) for member in members))
    until(lambda: queued.held_back("member-0"), "Kueue holds the group back")
    assert "35 more needed" in queued.held_back("member-0")
    cluster.delete("first")
    for member in members:
        name = member["metadata"]["name"]
        cluster.running(name)
        assert queued.taken_away(name) == BY_THEIR_OWNERS
    queued.uses(80 + 75)
