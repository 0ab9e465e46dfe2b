"""What kubectl accepts is accepted: lists, generated names, dates, other kinds, objects twice."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Given
from tests.cli.plan.conftest import Plan
from tests.cli.plan.given import (
    Json,
    Run,
    gpu,
    layout,
    node,
    pod,
    template,
    workload,
)


def test_standard_input_and_several_files_are_read(
    run: Run, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(pod("p", 10))))
    run("plan", "-f", given(node()), "-f", "-", "-o", "json")
    assert run.placed == {"default/p": "n1"}


def test_list_of_json_is_read_whatever_its_items_say_of_their_kind(
    run: Run, tmp_path: Path
) -> None:
    bare = node()
    del bare["kind"]
    (tmp_path / "nodes.json").write_text(json.dumps({"kind": "NodeList", "items": [bare]}))
    (tmp_path / "all.json").write_text(json.dumps({"kind": "List", "items": [pod("p", 10)]}))
    run("plan", "-f", tmp_path, "-o", "json")
    assert run.placed == {"default/p": "n1"}


def test_other_kinds_are_skipped_and_counted(run: Run, given: Given) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    run("plan", "-f", given(node(), pod("p", 10), service))
    assert run.status == 0
    assert run.err == "skipped, since they do not bear on slices: 1 Service\n"


def test_kind_of_another_group_is_skipped(run: Run, given: Any) -> None:
    volcano = {"apiVersion": "batch.volcano.sh/v1", "kind": "Job", "metadata": {"name": "j"}}
    run("plan", "-f", given(node(), pod("p", 10), volcano))
    assert run.status == 0
    assert run.err.endswith(": 1 Job\n")


@pytest.mark.parametrize("bound", [{"node": "n1"}, {}], ids=["with a nodeName", "without"])
def test_pod_that_does_not_exist_yet_is_judged_wherever_it_wants_to_go(
    run: Run, given: Any, bound: Json
) -> None:
    bad = pod("p", 10, **bound)
    bad["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu-10gb"] = 2
    (rejected,) = run("plan", "-o", "json", "-f", given(node(), bad)).json["rejected"]
    assert (rejected["pod"], rejected["reason"]) == ("default/p", "MultipleSlices")
    existing = bad | {"metadata": {"name": "p", "uid": "u"}}
    assert not run("plan", "-o", "json", "-f", given(node(), existing)).json["rejected"]


def test_generated_names_are_made_up_and_do_not_collide(plan: Plan) -> None:
    first, second = pod("", 10), pod("", 20)
    for each in (first, second):
        each["metadata"] = {"generateName": "train-"}
    plan(node(), pod("train-1", 5), first, second)
    assert sorted(plan(node(), pod("train-1", 5), first, second).placed) == [
        "default/train-1",
        "default/train-2",
        "default/train-3",
    ]


def test_generated_name_of_a_job_names_its_pods(plan: Plan) -> None:
    job = workload("Job", "", 10, parallelism=2)
    job["metadata"] = {"generateName": "sweep-", "namespace": "ml"}
    assert sorted(plan(node(), job).placed) == ["ml/sweep-1-0", "ml/sweep-1-1"]


def test_texts_that_yaml_takes_for_dates_and_times_are_texts(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(
        "apiVersion: v1\nkind: Pod\n"
        "metadata:\n  name: p\n  creationTimestamp: 2026-11-01T10:00:00Z\n"
        "  labels: {day: 2026-11-01, at: 12:30}\n"
        "spec:\n  containers:\n  - name: c\n    image: x\n"
        "    resources: {limits: {nvidia.com/gpu-10gb: 1, cpu: 0x1, memory: 1e9}}\n"
    )
    nodes = tmp_path / "node.json"
    nodes.write_text(json.dumps(node()))
    run("plan", "-f", file, "-f", nodes)
    assert run.status == 0, run.err


def test_byte_order_marks_of_windows_are_read(run: Run, tmp_path: Path) -> None:
    text = json.dumps({"kind": "List", "items": [node(), pod("p", 10)]})
    for encoding in ("utf-8-sig", "utf-16"):  # PowerShell's > writes UTF-16
        file = tmp_path / "input.json"
        file.write_bytes(text.replace(" ", "\r\n").encode(encoding))
        assert run("plan", "-f", file).status == 0, run.err


def test_folder_may_hold_a_kustomization_and_values(run: Run, given: Given) -> None:
    folder = given(node(), pod("p", 10)).parent
    (folder / "kustomization.yaml").write_text("kind: Kustomization\nresources: [input.yaml]\n")
    (folder / "values.yaml").write_text("replicas: 2\n")
    (folder / "patch.json").write_text('[{"op": "remove", "path": "/spec"}]')
    run("plan", "-f", folder, "-o", "json")
    assert run.status == 0
    assert run.err == (
        "skipped, since they do not bear on slices: 1 Kustomization, 2 document without a kind\n"
    )


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("PyTorchJob", {"pytorchReplicaSpecs": {"Worker": {"template": template(10)}}}),
        (
            "Workflow",
            {"templates": [{"name": "main", "container": template(10)["spec"]["containers"][0]}]},
        ),
        ("RayCluster", {"workerGroupSpecs": [{"template": template(10)}]}),
        ("PodTemplate", {"template": template(10)}),
    ],
)
def test_other_kind_that_asks_for_slices_is_named_and_makes_status_1(
    plan: Plan, kind: str, spec: Json
) -> None:
    other = {"apiVersion": "example.com/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    plan_ = plan(node(), pod("p", 10), other)
    assert plan_.status == 1
    (told,) = plan_.json["unplanned"]
    assert told["object"] == f"{kind} x"
    assert "asks for nvidia.com/gpu-10gb" in told["message"]


@pytest.mark.parametrize(
    ("kind", "version", "said"),
    [
        ("pod", "v1", "Kubernetes has no kind pod; write Pod"),
        ("Pods", "v1", "Kubernetes has no kind Pods; write Pod"),
        ("Deployment", "extensions/v1beta1", "has no Deployment; write apiVersion: apps/v1"),
        ("Deployment", "v1", "v1 has no Deployment; write apiVersion: apps/v1"),
        ("Job", "batch.volcano.sh/v1", "pods of this kind are not planned"),
    ],
)
def test_kind_that_is_misspelt_or_gone_is_told_with_the_right_one(
    plan: Plan, kind: str, version: str, said: str
) -> None:
    wrong = pod("p", 10) | {"kind": kind, "apiVersion": version}
    (told,) = plan(node(), wrong).json["unplanned"]
    assert said in told["message"]


def test_quota_that_counts_slices_asks_for_none(plan: Plan) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q"},
        "spec": {"hard": {"requests.nvidia.com/gpu-10gb": 4}},
    }
    assert plan(node(), pod("p", 10), quota).status == 0


def test_file_counts_where_the_cluster_has_the_pod_too(run: Run, given: Given, dump: Given) -> None:
    stored = pod("p", 20, node="n1") | {"status": {"phase": "Running"}}
    files = ("-f", dump(node(), stored), "-f", given(pod("p", 85)))
    for order in (files, (*files[2:], *files[:2])):
        run("plan", "-o", "json", *order)
        assert run.placed == {"default/p": "n1"}  # as 85gb, since what it held counts as free
        assert run.warnings == {"Pod p": "is in the cluster, too; what the file says counts"}


def test_slice_of_a_pod_that_a_file_has_anew_counts_as_free(
    run: Run, given: Given, dump: Given
) -> None:
    used = {"id": "GPU-0::80::0", "state": "Used", "pod": "default/p", "container": "c0"}
    stored = pod("p", 80, node="n1") | {"status": {"phase": "Running"}}
    cluster = dump(node(), layout("n1", gpu(0, used)), stored)
    run("plan", "-o", "json", "-f", cluster, "-f", given(pod("p", 40)))
    assert run.json["layouts"] == {"n1": {"GPU-0": {"40gb": 1}}}


def test_later_of_two_files_counts_as_with_kubectl_apply(plan: Plan) -> None:
    made = plan(node(), pod("p", 10), pod("p", 85))
    assert made.json["layouts"] == {"n1": {"n1-gpu-0": {"85gb": 1}}}
    assert "is given twice; the later one counts" in made.warnings["Pod p"]


def test_object_that_is_repeated_as_it_is_needs_no_word(plan: Plan) -> None:
    assert plan(node(), node(), pod("p", 10)).json["warnings"] == []


def test_class_that_is_not_in_the_input_is_a_warning(plan: Plan) -> None:
    pods = [pod(f"p{i}", 10, priorityClassName="urgent") for i in range(3)]
    made = plan(node(), *pods)
    assert made.status == 0
    assert made.warnings == {
        "Pod default/p0 and 2 more": (
            "PriorityClass urgent is not in the input: planned with priority 0; give it with -f"
        )
    }


def test_bad_node_is_set_aside_and_the_others_are_planned_on(plan: Plan) -> None:
    malformed, unreadable = node("n3"), node("n4")
    malformed["spec"] = {"taints": ["all"]}
    unreadable["status"]["allocatable"]["cpu"] = "many"
    broken = layout("n5") | {"spec": {"gpus": "all"}}
    nodes = (node("n1"), node("n2", count="-1"), malformed, unreadable, node("n5"), broken)
    made = plan(*nodes, pod("p", 10))
    assert made.status == 0
    assert made.placed == {"default/p": "n1"}
    assert sorted(made.warnings) == ["Node n2", "Node n3", "Node n4", "Node n5"]
    assert all(text.startswith("is set aside: ") for text in made.warnings.values())
    assert "label nvidia.com/gpu.count is '-1'" in made.warnings["Node n2"]
    assert "input.yaml" in made.warnings["Node n3"]


def test_contradiction_of_a_node_is_told(plan: Plan) -> None:
    used = {"id": "GPU-0::80::0", "state": "Used", "pod": "default/a", "container": "c"}
    more = {"id": "GPU-0::20::0", "state": "Used", "pod": "default/b", "container": "c"}
    made = plan(node("n1"), layout("n1", gpu(0, used, more)), node("n2"), pod("p", 10))
    assert made.placed == {"default/p": "n2"}
    assert "100gb are used on GPU 0" in made.warnings["Node n1"]


def test_namespace_of_the_flag_is_for_manifests_without_one(plan: Plan) -> None:
    elsewhere = pod("q", 10)
    elsewhere["metadata"]["namespace"] = "web"
    made = plan(node(), pod("p", 10), elsewhere, flags=("-n", "ml"))
    assert sorted(made.placed) == ["ml/p", "web/q"]


def test_namespace_may_take_itself_out_of_admission(plan: Plan) -> None:
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "legacy", "labels": {"mpslice.io/admission": "ignore"}},
    }
    two = pod("p", 10)
    two["metadata"]["namespace"] = "legacy"
    two["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu-10gb"] = 2
    assert plan(node(), space, two).json["rejected"] == []
