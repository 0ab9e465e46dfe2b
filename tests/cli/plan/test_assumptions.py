"""Before anything is installed: nodes taken for handed over, for empty, for more than there are."""

import pytest

from tests.cli.conftest import Given
from tests.cli.plan.conftest import Plan
from tests.cli.plan.given import Run, asking, gpu, layout, node, pod, unlabelled

A100 = {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}


def test_where_nothing_is_labelled_the_gpu_nodes_are_listed_with_a_selector(
    run: Run, given: Given
) -> None:
    gpus = [unlabelled(node(f"n{i}", count="2", **A100)) for i in (10, 2)]
    plain = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cpu-1", "labels": {}}}
    run("plan", "-f", given(*gpus, plain, pod("p", 10)))
    assert run.status == 1
    assert (
        "No node is handed over\n"
        "  Node n2, n10: 2 x NVIDIA-A100-SXM4-80GB 85gb\n"
        "  these 2 GPU nodes: add --assume-label 'nvidia.com/gpu.present=true' to plan as if handed"
    ) in run.out
    run("plan", "-f", given(*gpus, plain, pod("p", 10)), "--assume-label", "nvidia.com/gpu.present")
    assert run.status == 0


def test_input_without_nodes_or_without_gpus_says_what_to_give(plan: Plan) -> None:
    (told,) = plan(pod("p", 10)).json["candidates"]
    assert told["message"].startswith("has no Node; add --live, or give what kubectl get nodes")
    plain = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cpu-1", "labels": {}}}
    (told,) = plan(plain, pod("p", 10)).json["candidates"]
    assert told["message"].startswith("shows a GPU on none of its nodes; --gpu and --assume-label")


def test_flag_whose_selector_picks_no_node_is_warned_of(plan: Plan) -> None:
    flags = ("--assume-label", "gpu=a100", "--gpu", "gpu=l4=1x23034MiB")
    made = plan(node(), pod("p", 10), flags=flags)
    assert made.warnings == dict.fromkeys(
        ("--gpu gpu=l4", "--assume-label gpu=a100"), "no node has these labels"
    )
    here = ("--assume-label", "nvidia.com/gpu.count", "--gpu", "nvidia.com/gpu.count=1x23034MiB")
    assert plan(node(), pod("p", 10), flags=here).warnings == {}


def test_gpus_of_clouds_are_found_without_feature_discovery(plan: Plan) -> None:
    gke = node("gke-1", count=None, memory=None)
    gke["metadata"]["labels"] = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    gke["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    made = plan(gke, pod("p", 10))
    told = [each["message"] for each in made.json["candidates"]]
    rule = "cloud.google.com/gke-accelerator=nvidia-l4=1xMEMORYMiB"
    assert told[0] == f"1 GPU; nothing says how large: add --gpu '{rule}'"
    assert "--assume-label 'cloud.google.com/gke-accelerator=nvidia-l4'" in told[1]
    flags = (
        *("--assume-label", "cloud.google.com/gke-accelerator"),
        *("--gpu", "cloud.google.com/gke-accelerator=nvidia-l4=1x23034MiB"),
    )
    made = plan(gke, pod("p", 10), flags=flags)
    assert made.placed == {"default/p": "gke-1"}
    assert made.json["nodes"][0]["gpus"][0]["capacityGB"] == 24


@pytest.mark.parametrize(
    ("amount", "gb"), [("40960MiB", 42), ("40Gi", 42), ("40GiB", 42), ("48GB", 47), ("40960Mi", 42)]
)
def test_memory_of_a_gpu_is_written_in_usual_units(plan: Plan, amount: str, gb: int) -> None:
    bare = node(count=None, memory=None, pool="a")
    made = plan(bare, pod("p", 1), flags=("--gpu", f"pool=a=2x{amount}"))
    assert [gpu["capacityGB"] for gpu in made.json["nodes"][0]["gpus"]] == [gb, gb]


def test_rule_for_gpus_goes_before_labels_and_after_agents(plan: Plan) -> None:
    flags = ("--gpu", "kubernetes.io/os!=windows=2x40960MiB")
    made = plan(node("n1"), node("n2"), layout("n2", gpu(0)), pod("p", 1), flags=flags)
    found = {each["name"]: [g["capacityGB"] for g in each["gpus"]] for each in made.json["nodes"]}
    assert found == {"n1": [42, 42], "n2": [85]}


def test_assumed_nodes_keep_the_pods_that_hold_their_gpus(plan: Plan) -> None:
    """The other plugin is taken off a node that is handed over; its pods run on."""
    used = unlabelled(node("n1", count="2", **A100))
    used["status"]["allocatable"]["nvidia.com/gpu"] = "2"
    holder = asking("train", {"nvidia.com/gpu": 1}, node="n1")
    made = plan(
        used, holder, pod("p", 80), pod("q", 80), flags=("--assume-label", "nvidia.com/gpu.present")
    )
    assert len(made.json["placed"]) == 1
    assert made.json["nodes"][0]["assumed"] is True
    assert made.warnings["Node n1"] == (
        "remove the device plugin that offers nvidia.com/gpu when you hand the node over"
    )


def test_nodes_taken_for_empty_have_neither_the_plugin_nor_its_pods(plan: Plan) -> None:
    used = node(count="2")
    used["status"]["allocatable"]["nvidia.com/gpu"] = "2"
    holder = asking("train", {"nvidia.com/gpu": 2, "cpu": "7"}, node="n1")
    wanting = asking("p", {"nvidia.com/gpu-80gb": 1, "cpu": "4"})
    assert plan(used, holder, wanting).status == 1
    made = plan(used, holder, wanting, flags=("--assume-empty",))
    assert made.status == 0
    assert "counts as gone" in made.warnings["Pod default/train"]


def test_agents_gpus_come_free_of_other_plugins_too(plan: Plan) -> None:
    foreign = gpu(0, healthy=False, reason="ForeignPlugin")
    lost = gpu(1, healthy=False, reason="Lost")
    objects = (node(), layout("n1", foreign, lost), pod("p", 80), pod("q", 80))
    assert plan(*objects).json["placed"] == []
    assert len(plan(*objects, flags=("--assume-empty",)).json["placed"]) == 1


def test_more_nodes_are_empty_ready_and_handed_over(plan: Plan) -> None:
    like = unlabelled(node("n1", count="1", **A100, **{"kubernetes.io/hostname": "n1"}))
    like["spec"] = {
        "unschedulable": True,
        "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}],
    }
    like["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    like["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    pods = [pod(f"p{i}", 80) for i in range(3)]
    made = plan(like, *pods, flags=("--add-node", "n1=2"))
    assert sorted(made.placed.values()) == ["n1-new-1", "n1-new-2"]
    assert [each["name"] for each in made.json["nodes"]] == ["n1-new-1", "n1-new-2"]


def test_more_nodes_may_be_like_one_that_an_agent_serves(plan: Plan) -> None:
    used = {"id": "GPU-0::80::0", "state": "Used", "pod": "default/old", "container": "c"}
    pods = (pod("old", 80, node="n1"), pod("p", 80))
    made = plan(node(), layout("n1", gpu(0, used)), *pods, flags=("--add-node", "n1"))
    assert made.placed == {"default/p": "n1-new-1"}
    assert made.json["placed"][0]["slices"][0]["gpu"] == "n1-new-1-gpu-0"


def test_more_nodes_of_gpus_that_cannot_be_sliced_are_refused(run: Run, given: Given) -> None:
    mig = node(**{"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"})
    run("plan", "-f", given(mig, pod("p", 10)), "--add-node", "n1")
    assert run.status == 2
    assert "--add-node: node n1: its GPUs are in MIG mode" in run.err


def test_taint_of_the_pool_is_on_more_nodes_too(plan: Plan) -> None:
    tainted = node()
    tainted["spec"] = {"taints": [{"key": "nvidia.com/gpu", "value": "x", "effect": "NoSchedule"}]}
    made = plan(tainted, pod("p", 10), flags=("--add-node", "n1"))
    assert made.unplaced == {
        "default/p": "10gb: 0 of 2 nodes: 2 Taint (nvidia.com/gpu=x:NoSchedule)"
    }
