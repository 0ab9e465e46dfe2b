"""`kubectl mpslice node-template`: what a node like another offers, in each autoscaler's words."""

import json
from typing import Any

import pytest
import yaml

from cli.errors import UnusableInput
from cli.main import parser
from cli.nodetemplate.formats import aws, azure, cluster_api, gce, karpenter
from cli.nodetemplate.offer import Offer
from cli.nodetemplate.show import ask, draw, report
from cli.terminal import text_of
from mpslice.kube.errors import NotFound
from mpslice.slices import GB_RESOURCE
from planner.model.constraints import Taint
from tests.cli.fake_api import ALL, FakeApi, Grant, cluster
from tests.cli.objects import gpu, layout, node, pod, taint

LABELS = {
    "nvidia.com/gpu.product": "NVIDIA-A100",
    "node.kubernetes.io/instance-type": "p4d.24xlarge",
    "karpenter.sh/nodepool": "gpus",
}
HANDED_OVER = {
    "nos.nebuly.com/gpu-partitioning": "mps",
    "nvidia.com/gpu.product": "NVIDIA-A100",
}
OFFER = Offer(
    node="n1",
    gpus=(85, 85),
    resources={"nvidia.com/gpu-10gb": 16, "nvidia.com/gpu-40gb": 4},
    labels=HANDED_OVER,
    taints=(Taint("nvidia.com/gpu", "present", "NoSchedule"),),
    amounts={"cpu": "96", "memory": "1Ti"},
    instance_type="p4d.24xlarge",
    node_pool="gpus",
)


def a_cluster(*, grants: Any = ALL, **fields: Any) -> FakeApi:
    nodes = [node("n1", labels=LABELS, **fields)]
    stands = layout("n1", gpu("n1", 0, 85, (10, "team-a/p"), (40, "")), gpu("n1", 1, 85))
    return FakeApi(cluster(nodes=nodes, layouts=[stands], pods=[pod("p", 10, on="n1")]), grants)


async def offer(kube: FakeApi, *flags: str) -> Offer:
    given = ["node-template", "--like=n1", *flags]
    return await ask(kube, parser().parse(given, {}))


async def test_each_size_in_use_counts_as_often_as_it_fits_on_the_empty_node() -> None:
    found = await offer(a_cluster())
    assert found.resources == {"nvidia.com/gpu-10gb": 16, "nvidia.com/gpu-40gb": 4}
    assert (found.gpus, found.labels) == ((85, 85), HANDED_OVER)
    assert (found.instance_type, found.node_pool) == ("p4d.24xlarge", "gpus")


async def test_named_sizes_alone_count_and_need_no_right_to_list_pods() -> None:
    kube = a_cluster(grants=[Grant("nodes"), Grant("nodelayouts")])
    found = await offer(kube, "--size=1gb", "--size=30gb")
    assert found.resources == {"nvidia.com/gpu-1gb": 96, "nvidia.com/gpu-30gb": 4}
    with pytest.raises(UnusableInput, match=r"cannot list resource .pods.*--size"):
        await offer(kube)


async def test_limit_of_slices_on_a_gpu_is_kept() -> None:
    found = await offer(a_cluster(), "--max-slices-per-gpu=5")
    assert found.resources["nvidia.com/gpu-10gb"] == 10


async def test_resource_of_gb_is_offered_where_the_cluster_has_it() -> None:
    found = await offer(a_cluster(amounts={GB_RESOURCE: "120"}))
    assert found.resources[GB_RESOURCE] == 170


async def test_taints_of_the_kind_are_kept_and_those_of_its_state_are_not() -> None:
    passing = ("node.kubernetes.io/unschedulable", "karpenter.sh/disrupted")
    taints = [taint("nvidia.com/gpu", "present"), *map(taint, passing)]
    found = await offer(a_cluster(taints=taints))
    assert found.taints == (Taint("nvidia.com/gpu", "present", "NoSchedule"),)


async def test_node_without_a_layout_is_read_from_its_labels() -> None:
    labels = {**LABELS, "nvidia.com/gpu.count": "2", "nvidia.com/gpu.memory": "81920"}
    kube = FakeApi(cluster(nodes=[node("n1", labels=labels, amounts={"nvidia.com/gpu": "2"})]))
    found = await offer(kube, "--size=10gb", "--memory-unit=GiB")
    assert (found.gpus, found.resources) == ((80, 80), {"nvidia.com/gpu-10gb": 16})


async def test_node_of_unknown_gpus_is_refused_with_the_labels_that_lack() -> None:
    kube = FakeApi(cluster(nodes=[node("n1")]))
    with pytest.raises(UnusableInput, match=r"no label says which GPUs it has$"):
        await offer(kube, "--size=10gb")


async def test_no_size_and_no_node_are_told() -> None:
    empty = FakeApi(cluster(nodes=[node("n1")], layouts=[layout("n1", gpu("n1", 0, 85))]))
    with pytest.raises(UnusableInput, match="no pod asks for a slice"):
        await offer(empty)
    with pytest.raises(NotFound):
        await offer(FakeApi(), "--size=10gb")


async def test_gpus_that_are_left_alone_and_sizes_that_never_fit_are_warned_of() -> None:
    sick = layout("n1", gpu("n1", 0, 85), gpu("n1", 1, 85, reason="Excluded"))
    found = await offer(FakeApi(cluster(nodes=[node("n1")], layouts=[sick])), "--size=90gb")
    assert found.resources == {"nvidia.com/gpu-90gb": 0}
    assert len(found.warnings) == 2
    assert "GPU 1 of n1 is not counted: Excluded" in found.warnings
    assert "nvidia.com/gpu-90gb fits on no GPU of n1" in found.warnings[1]


@pytest.mark.parametrize("whole", ["0", "1"])
async def test_gpu_label_is_warned_of_where_the_node_offers_no_whole_gpu(whole: str) -> None:
    made = node(
        "n1",
        labels={"cloud.google.com/gke-accelerator": "nvidia-a100-80gb"},
        amounts={"nvidia.com/gpu": whole},
    )
    found = await offer(
        FakeApi(cluster(nodes=[made], layouts=[layout("n1", gpu("n1", 0, 85))])), "--size=10gb"
    )
    assert any("takes it for unready" in each for each in found.warnings) == (whole == "0")


def test_aws_reads_resources_labels_and_taints_from_tags() -> None:
    prefix = "k8s.io/cluster-autoscaler/node-template"
    assert aws(OFFER)["tags"] == {
        f"{prefix}/resources/nvidia.com/gpu-10gb": "16",
        f"{prefix}/resources/nvidia.com/gpu-40gb": "4",
        f"{prefix}/label/nos.nebuly.com/gpu-partitioning": "mps",
        f"{prefix}/label/nvidia.com/gpu.product": "NVIDIA-A100",
        f"{prefix}/taint/nvidia.com/gpu": "present:NoSchedule",
    }


def test_azure_takes_no_slash_in_the_name_of_a_tag() -> None:
    labels = Offer("n", (), {"nvidia.com/gpu-10gb": 1}, {"a.example/b_c": "d"})
    prefix = "k8s.io_cluster-autoscaler_node-template"
    assert azure(labels)["tags"] == {
        f"{prefix}_resources_nvidia.com_gpu-10gb": "1",
        f"{prefix}_label_a.example_b~2c": "d",
    }
    assert not any("/" in tag for tag in azure(OFFER)["tags"])


def test_google_reads_resources_from_labels_of_the_node_pool() -> None:
    told = gce(OFFER)
    assert told["nodeLabels"] == {
        "clusterautoscaler-nodetemplate-resources.nvidia.com/gpu-10gb": "16",
        "clusterautoscaler-nodetemplate-resources.nvidia.com/gpu-40gb": "4",
        **HANDED_OVER,
    }
    assert told["nodeTaints"] == ["nvidia.com/gpu=present:NoSchedule"]
    assert told["AUTOSCALER_ENV_VARS"].split(";") == [
        "node_labels=nos.nebuly.com/gpu-partitioning=mps,nvidia.com/gpu.product=NVIDIA-A100",
        "node_taints=nvidia.com/gpu=present:NoSchedule",
        "extended_resources=nvidia.com/gpu-10gb=16,nvidia.com/gpu-40gb=4",
    ]


def test_cluster_api_names_several_resources_in_the_machine_template_alone() -> None:
    told = cluster_api(OFFER)
    prefix = "capacity.cluster-autoscaler.kubernetes.io"
    annotations = {
        f"{prefix}/cpu": "96",
        f"{prefix}/memory": "1Ti",
        f"{prefix}/labels": (
            "nos.nebuly.com/gpu-partitioning=mps,nvidia.com/gpu.product=NVIDIA-A100"
        ),
        f"{prefix}/taints": "nvidia.com/gpu=present:NoSchedule",
    }
    assert told["annotations"] == annotations
    assert told["machineTemplate"]["status"]["capacity"]["nvidia.com/gpu-40gb"] == "4"
    one = Offer("n", (), {"nvidia.com/gpu-10gb": 8}, {"a": "b"})
    assert cluster_api(one) == {
        "annotations": {
            f"{prefix}/labels": "a=b",
            f"{prefix}/gpu-type": "nvidia.com/gpu-10gb",
            f"{prefix}/gpu-count": "8",
        }
    }


def test_karpenter_gets_an_overlay_of_the_instance_type_and_labels_of_its_pool() -> None:
    told = karpenter(OFFER)
    assert told["nodeOverlay"]["spec"] == {
        "requirements": [
            {"key": "karpenter.sh/nodepool", "operator": "In", "values": ["gpus"]},
            {
                "key": "node.kubernetes.io/instance-type",
                "operator": "In",
                "values": ["p4d.24xlarge"],
            },
        ],
        "capacity": {"nvidia.com/gpu-10gb": "16", "nvidia.com/gpu-40gb": "4"},
    }
    template = told["nodePool"]["spec"]["template"]
    assert template["metadata"]["labels"] == HANDED_OVER
    assert template["spec"]["taints"] == [
        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    ]


def test_report_has_every_autoscaler_or_the_one_that_is_named() -> None:
    told = json.loads(json.dumps(report(OFFER)))
    assert list(told)[4:] == ["aws", "azure", "gce", "clusterapi", "karpenter"]
    assert list(report(OFFER, "gce"))[4:] == ["gce"]


def test_drawing_can_be_copied_part_by_part() -> None:
    text = text_of(draw(OFFER))
    assert text.startswith("a new node like n1 has 2 GPUs (85gb, 85gb), and room for\n")
    assert "  k8s.io/cluster-autoscaler/node-template/resources/nvidia.com/gpu-10gb " in text
    overlay, pool = text.partition("NodeOverlay\n")[2].split("\nand in the NodePool\n")
    assert yaml.safe_load(overlay)["kind"] == "NodeOverlay"
    assert list(yaml.safe_load(pool)) == ["spec"]
