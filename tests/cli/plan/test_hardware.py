"""A cluster in use: GPUs that an agent would leave alone are not planned on, and why is told."""

import pytest

from tests.cli.conftest import Given
from tests.cli.plan.conftest import Plan
from tests.cli.plan.given import Json, Run, asking, gpu, layout, node, pod


def offering(made: Json, **resources: str) -> Json:
    """The node with what another device plugin offers."""
    made["status"]["allocatable"] |= {f"nvidia.com/{k}": v for k, v in resources.items()}
    return made


def reason(run: Run, name: str = "n1") -> tuple[str, str]:
    (found,) = [each for each in run.json["nodes"] if each["name"] == name]
    return found["reason"], found["message"]


def test_gpus_that_others_hold_are_told_with_the_holders(plan: Plan) -> None:
    busy = offering(node("busy-a100", count="2"), gpu="2")
    holders = [
        asking(f"train-{i}", {"nvidia.com/gpu": 1}, node="busy-a100", namespace="ml")
        for i in range(2)
    ]
    made = plan(busy, *holders, pod("p", 10))
    told = "2 GPUs held by ml/train-0, ml/train-1 through another device plugin"
    assert reason(made, "busy-a100") == ("ForeignPlugin", told)
    assert [gpu["reason"] for gpu in made.json["nodes"][0]["gpus"]] == ["ForeignPlugin"] * 2
    assert made.status == 1
    assert made.unplaced == {
        "default/p": "10gb: 0 of 1 nodes: 1 NotReady (ForeignPlugin on busy-a100)"
    }


def test_table_says_why_a_node_is_not_planned_on(run: Run, given: Given) -> None:
    busy = offering(node("busy-a100"), gpu="1")
    holder = asking("train-0", {"nvidia.com/gpu": 1}, node="busy-a100", namespace="ml")
    run("plan", "-f", given(busy, holder, pod("p", 10)))
    assert (
        "Not planned on\n"
        "  busy-a100: 1 GPU held by ml/train-0 through another device plugin; not planned on\n"
    ) in run.out


@pytest.mark.parametrize(
    ("resources", "labels", "told"),
    [
        ({"gpu": "2"}, {}, "2 GPUs offered as nvidia.com/gpu by another device plugin"),
        (
            {"gpu": "8"},
            {"nvidia.com/gpu.replicas": "4"},
            "2 GPUs offered as 8 nvidia.com/gpu by another device plugin",
        ),
        (
            {"gpu.shared": "8"},
            {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-SHARED"},
            "2 GPUs offered as 8 nvidia.com/gpu.shared by another device plugin",
        ),
    ],
)
def test_gpus_that_another_plugin_offers_are_left_alone(
    plan: Plan, resources: Json, labels: Json, told: str
) -> None:
    made = plan(offering(node(count="2", **labels), **resources), pod("p", 10))
    assert reason(made) == ("ForeignPlugin", told)
    assert made.json["placed"] == []


def test_labels_that_count_other_gpus_than_the_plugin_are_warned_of(plan: Plan) -> None:
    made = plan(offering(node(count="4"), gpu="3"), pod("p", 10))
    assert "labels count 4 GPUs, another device plugin offers 3" in made.warnings["Node n1"]
    shared = offering(node(count="4", **{"nvidia.com/gpu.replicas": "4"}), gpu="16")
    assert plan(shared, pod("p", 10)).json["warnings"] == []


def test_some_held_of_those_offered_are_counted(plan: Plan) -> None:
    holder = asking("train", {"nvidia.com/gpu": 3}, node="n1")
    made = plan(offering(node(count="4"), gpu="4"), holder, pod("p", 10))
    assert reason(made)[1] == (
        "4 GPUs offered as nvidia.com/gpu by another device plugin, 3 of them held by default/train"
    )


def test_pod_that_outlives_the_other_plugin_holds_its_gpus(plan: Plan) -> None:
    holder = asking("train", {"nvidia.com/gpu": 1}, node="n1")
    made = plan(node(count="2"), holder, pod("p", 80), pod("q", 80))
    assert reason(made)[1] == "1 GPU held by default/train through another device plugin"
    assert [gpu["reason"] for gpu in made.json["nodes"][0]["gpus"]] == ["ForeignPlugin", ""]
    assert len(made.json["placed"]) == 1


def test_finished_pod_holds_nothing(plan: Plan) -> None:
    done = asking("train", {"nvidia.com/gpu": 1}, node="n1") | {"status": {"phase": "Succeeded"}}
    assert plan(node(), done, pod("p", 80)).status == 0


@pytest.mark.parametrize(
    ("labels", "resources", "said"),
    [
        (
            {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"},
            {"gpu": "56"},
            "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb",
        ),
        ({}, {"mig-1g.10gb": "7"}, "it offers nvidia.com/mig-1g.10gb"),
        (
            {"nvidia.com/mig.config": "all-1g.10gb", "nvidia.com/mig.config.state": "success"},
            {},
            "nvidia.com/mig.config=all-1g.10gb",
        ),
    ],
    ids=["single strategy", "mixed strategy", "the MIG manager"],
)
def test_mig_node_is_left_alone(plan: Plan, labels: Json, resources: Json, said: str) -> None:
    made = plan(offering(node(**labels), **resources), pod("p", 9))
    assert reason(made) == (
        "MigMode",
        f"its GPUs are in MIG mode ({said}); nvidia-smi -mig 0 ends that",
    )
    assert made.status == 1


def test_node_that_could_do_mig_and_does_not_is_planned_on(plan: Plan) -> None:
    labels = {"nvidia.com/mig.capable": "true", "nvidia.com/mig.config": "all-disabled"}
    assert plan(node(**labels), pod("p", 10)).status == 0


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            {"nvidia.com/gpu.compute.major": "6", "nvidia.com/gpu.compute.minor": "1"},
            "MPS limits no memory before Volta (7.0), and its GPUs are of generation 6.1",
        ),
        (
            {"nvidia.com/gpu.product": "Tesla-P100-PCIE-16GB"},
            "MPS limits no memory before Volta, and its GPUs are Tesla-P100-PCIE-16GB",
        ),
        (
            {"cloud.google.com/gke-accelerator": "nvidia-tesla-k80"},
            "MPS limits no memory before Volta, and its GPUs are nvidia-tesla-k80",
        ),
    ],
)
def test_gpus_before_volta_are_left_alone(plan: Plan, labels: Json, said: str) -> None:
    made = plan(node(**labels), pod("p", 9))
    assert reason(made) == ("TooOld", said)
    assert made.status == 1


def test_volta_is_planned_on(plan: Plan) -> None:
    labels = {"nvidia.com/gpu.compute.major": "7", "nvidia.com/gpu.product": "Tesla-V100-SXM2-16GB"}
    assert plan(node(memory="16384", **labels), pod("p", 9)).status == 0


def test_agent_knows_better_than_labels(plan: Plan) -> None:
    """What an agent has reported counts, not what labels and the node's status let one guess."""
    served = offering(node(count="2"), gpu="2")
    gpus = (gpu(0), gpu(1, healthy=False, reason="XidError"))
    made = plan(served, layout("n1", *gpus), pod("p", 80), pod("q", 80))
    assert reason(made) == ("XidError", "GPU 1: XidError")
    assert len(made.json["placed"]) == 1
    away = plan(node(), layout("n1", gpu(0), ready=False), pod("p", 80))
    assert reason(away)[0] == "NotReady"
    assert away.status == 1


def test_states_of_nodes_are_told(run: Run, given: Given) -> None:
    nodes = [node("n0"), node("n1"), node("n2")]
    nodes[0]["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    nodes[1]["spec"] = {"unschedulable": True}
    files = given(*nodes, pod("p", 10))
    run("plan", "-f", files)
    assert "  n0: NotReady; not planned on\n" in run.out
    assert "  n1: cordoned; not planned on\n" in run.out
    run("plan", "-f", files, "-o", "wide")
    assert "  n0 (NotReady)\n" in run.out
    assert "  n1 (cordoned)\n" in run.out
    states = {each["name"]: each for each in run("plan", "-f", files, "-o", "json").json["nodes"]}
    assert [states[name]["ready"] for name in ("n0", "n1")] == [False, True]
    assert [states[name]["unschedulable"] for name in ("n0", "n1")] == [False, True]


def test_node_without_the_memory_label_is_set_aside_with_what_to_add(plan: Plan) -> None:
    spark = node("spark", memory=None, **{"kubernetes.io/hostname": "spark"})
    made = plan(node("n1"), spark, pod("p", 10))
    assert made.status == 0
    assert made.warnings == {
        "Node spark": (
            "is set aside: label nvidia.com/gpu.memory is missing: nothing says what its GPUs are; "
            "add --gpu 'kubernetes.io/hostname=spark=1xMEMORYMiB'"
        )
    }


def test_where_all_nodes_are_set_aside_no_label_is_blamed(plan: Plan) -> None:
    made = plan(node("spark", memory=None), pod("p", 10))
    assert made.unplaced == {"default/p": "10gb: 0 of 1 nodes: 1 set aside, see the warnings"}


def test_slices_without_a_nodelayout_are_a_hint_to_give_it(plan: Plan) -> None:
    carved = node()
    carved["status"]["allocatable"]["nvidia.com/gpu-10gb"] = "2"
    made = plan(carved, pod("p", 10))
    assert made.warnings["Node n1"].endswith(": kubectl get nodelayouts -o json")
