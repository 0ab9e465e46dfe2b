"""What bears on where pods go: bound pods, priorities, groups, affinity, gates, quantities."""

from typing import Any

from tests.cli.plan.given import Json, Run, node, pod


def test_bound_pods_hold_what_they_request(run: Run, given: Any) -> None:
    run("plan", "-f", given(node(), pod("old", 80, node="n1"), pod("new", 10)), "-o", "json")
    assert run.status == 1
    assert run.json["unplaced"][0]["message"] == (
        "10gb: 0 of 1 nodes: 1 GPUMemory (largest hole 5gb on n1 GPU 0)"
    )


def test_nodelayout_says_on_which_gpu_a_slice_is_held(run: Run, given: Any) -> None:
    def gpu(index: int, *slices: Json) -> Json:
        return {
            "uuid": f"GPU-{index}",
            "index": index,
            "memoryMiB": 81920,
            "capacityGB": 85,
            "healthy": True,
            "slices": list(slices),
        }

    used = {"id": "GPU-1::80::0", "state": "Used", "pod": "default/old", "container": "c0"}
    free = {"id": "GPU-0::20::0", "state": "Free"}
    layout = {
        "apiVersion": "mpslice.io/v1alpha1",
        "kind": "NodeLayout",
        "metadata": {"name": "n1"},
        "spec": {"gpus": []},
        "status": {
            "gpus": [gpu(0, free), gpu(1, used)],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    files = given(node(), layout, pod("old", 80, node="n1"), pod("new", 20))
    report = run("plan", "-f", files, "-o", "json").json
    assert report["placed"][0]["slices"][0]["gpu"] == "GPU-0"
    assert report["layouts"] == {}  # the free slice is taken: nothing changes


def test_excluded_gpu_of_a_node_known_by_labels_holds_no_slices(run: Run, given: Any) -> None:
    two = node("n1", count="2")
    two["metadata"]["annotations"] = {"mpslice.io/exclude-gpus": "0"}
    run("plan", "-f", given(two, pod("p", 80), pod("q", 80)), "-o", "json")
    assert run.json["layouts"] == {"n1": {"n1-gpu-1": {"80gb": 1}}}
    assert len(run.json["unplaced"]) == 1


def test_priority_class_decides_who_goes_first(run: Run, given: Any) -> None:
    high = {"kind": "PriorityClass", "metadata": {"name": "high"}, "value": 5}
    pods = (pod("a", 60), pod("b", 60, priorityClassName="high"))
    run("plan", "-f", given(node(), high, *pods), "-o", "json")
    assert list(run.placed) == ["default/b"]


def test_group_is_placed_whole_or_not_at_all(run: Run, given: Any) -> None:
    kind = {"apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "PodGroup"}
    group: Json = {**kind, "metadata": {"name": "g"}, "spec": {"minMember": 3}}
    members = [pod(f"m{i}", 10) for i in range(2)]
    for member in members:
        member["metadata"]["labels"] = {"scheduling.x-k8s.io/pod-group": "g"}
    run("plan", "-o", "json", "-f", given(node(), group, *members))
    assert [unplaced["reason"] for unplaced in run.json["unplaced"]] == ["Group", "Group"]
    group["spec"]["minMember"] = 2
    run("plan", "-o", "json", "-f", given(node(), group, *members))
    assert run.json["unplaced"] == []


def test_affinity_and_spread_between_pods_count(run: Run, given: Any) -> None:
    nodes = [node(f"n{i}", zone=zone) for i, zone in enumerate("aab")]
    term = {
        "topologyKey": "zone",
        "labelSelector": {"matchLabels": {"app": "db"}},
        "namespaceSelector": {"matchLabels": {"team": "x"}},
    }
    required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    database = pod("db", node="n2")
    database["metadata"].update(namespace="other", labels={"app": "db"})
    space: Json = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}
    beside = pod("p", 10, affinity={"podAffinity": required})
    run("plan", "-o", "json", "-f", given(*nodes, database, space, beside))
    assert run.json["unplaced"][0]["message"] == "10gb: 0 of 3 nodes: 3 PodAffinity"
    space["metadata"]["labels"] = {"team": "x"}
    run("plan", "-o", "json", "-f", given(*nodes, database, space, beside))
    assert [placed["node"] for placed in run.json["placed"]] == ["n2"]


def test_pod_with_anothers_gate_is_not_planned(run: Run, given: Any) -> None:
    gates = [{"name": "example.com/quota"}]
    run("plan", "-f", given(node(), pod("p", 10, schedulingGates=gates)), "-o", "json")
    assert run.json["unplaced"] == [
        {
            "pod": "default/p",
            "reason": "Gated",
            "message": "waits for other scheduling gates: example.com/quota",
        }
    ]


def test_null_in_an_affinity_stands_for_nothing(run: Run, given: Any) -> None:
    terms = [{"matchExpressions": [{"key": None, "operator": "Exists"}, {"key": "zone"}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    run("plan", "-f", given(node(), pod("p", 10, affinity={"nodeAffinity": required})))
    assert "1 NodeAffinity" in run.out, run.err


def test_quantity_beyond_all_reason_is_the_largest_there_is(run: Run, given: Any) -> None:
    nodes = [node("n1"), node("n2")]
    nodes[0]["status"]["allocatable"]["cpu"] = "1e999"
    pods = [pod(f"p{size}", size) for size in (50, 50, 30, 40)]
    for number, each in enumerate(pods):
        each["metadata"]["name"] = f"p{number}"
        each["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "3"}
    run("plan", "-f", given(*nodes, *pods))
    assert "Traceback" not in run.err
    assert run.status in (0, 1)


def test_count_beyond_all_reason_is_planned_as_what_it_is(run: Run, given: Any) -> None:
    huge = pod("p", 10, node="n1") | {"status": {"phase": "Running"}}
    huge["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu-10gb"] = 2**63 - 1
    assert run("plan", "-f", given(node(), huge)).status == 0
