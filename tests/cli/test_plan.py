"""`kubectl mpslice plan` as a user calls it: what it prints, and with which status it ends."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.main import main

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
Json = dict[str, Any]


class Run:
    """The command in this process: its status and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> "Run":
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        self.status = ended.value.code
        self.out, self.err = self._capsys.readouterr()
        return self

    @property
    def json(self) -> Json:
        parsed: Json = json.loads(self.out)
        return parsed


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def given(tmp_path: Path) -> Any:
    """Writes objects as one YAML file of many documents, and names it."""

    def write(*objects: Json, name: str = "input.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump_all(objects, sort_keys=False))
        return path

    return write


def node(name: str = "n1", count: Any = "1", memory: Any = "81920", **labels: str) -> Json:
    gpus = {"nvidia.com/gpu.count": count, "nvidia.com/gpu.memory": memory}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "nos.nebuly.com/gpu-partitioning": "mps",
                **{key: value for key, value in gpus.items() if value is not None},
                **labels,
            },
        },
        "status": {"allocatable": {"cpu": "8", "memory": "64Gi", "pods": "110"}},
    }


def pod(name: str, *sizes: int, node: str = "", owner: Json | None = None, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **({"ownerReferences": [owner]} if owner else {})},
        "spec": {**template(*sizes)["spec"], **({"nodeName": node} if node else {}), **spec},
    }


def template(*sizes: int) -> Json:
    return {
        "metadata": {"labels": {"app": "x"}},
        "spec": {
            "containers": [
                {
                    "name": f"c{index}",
                    "image": "none",
                    "resources": {"limits": {f"nvidia.com/gpu-{size}gb": 1}},
                }
                for index, size in enumerate(sizes)
            ]
        },
    }


def workload(kind: str, name: str, *sizes: int, **spec: Any) -> Json:
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "team"},
        "spec": {**spec, "template": template(*sizes)},
    }


def placed(run: Run) -> dict[str, str]:
    return {entry["pod"]: entry["node"] for entry in run.json["placed"]}


def test_examples_show_verdicts_bars_placements_and_a_reason(run: Run) -> None:
    run("plan", "-f", EXAMPLES)
    assert run.status == 1
    for text in (
        "Refused at admission",
        "default/two-slices",
        "ask for nvidia.com/gpu-20gb: 1",
        "a100-1 GPU 0",
        "▌▓",
        "default/notebook",
        "96gb: 0 of 2 nodes: 2 GPUTooSmall",
    ):
        assert text in run.out


def test_json_has_the_form_that_other_programs_rely_on(run: Run) -> None:
    report = run("plan", "-f", EXAMPLES, "-o", "json").json
    assert set(report) == {"rejected", "placed", "unplaced", "layouts", "withdrawn", "seconds"}
    assert set(report["seconds"]) == {"read", "plan"}
    assert [entry["reason"] for entry in report["rejected"]] == ["MultipleSlices"]
    assert report["unplaced"] == [
        {
            "pod": "default/too-large",
            "reason": "GPUTooSmall",
            "message": "96gb: 0 of 2 nodes: 2 GPUTooSmall",
        }
    ]
    chat = next(entry for entry in report["placed"] if entry["pod"] == "default/chat")
    assert chat["node"] == "l40s-1"
    assert chat["slices"] == [
        {"container": "model", "size": "40gb", "gpu": "l40s-1-gpu-0"},
        {"container": "reranker", "size": "6gb", "gpu": "l40s-1-gpu-0"},
    ]
    assert report["layouts"]["l40s-1"] == {"l40s-1-gpu-0": {"6gb": 1, "40gb": 1}}
    assert report["withdrawn"] == 0


def test_status_is_0_when_every_pod_is_placed(run: Run, given: Any) -> None:
    run("plan", "-f", given(node(), pod("p", 10)))
    assert run.status == 0


def test_standard_input_and_several_files_are_read(
    run: Run, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(pod("p", 10))))
    run("plan", "-f", given(node()), "-f", "-", "-o", "json")
    assert placed(run) == {"default/p": "n1"}


def test_list_of_json_is_read_whatever_its_items_say_of_their_kind(
    run: Run, tmp_path: Path
) -> None:
    bare = node()
    del bare["kind"]
    (tmp_path / "nodes.json").write_text(json.dumps({"kind": "NodeList", "items": [bare]}))
    (tmp_path / "all.json").write_text(json.dumps({"kind": "List", "items": [pod("p", 10)]}))
    run("plan", "-f", tmp_path, "-o", "json")
    assert placed(run) == {"default/p": "n1"}


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


def test_unlabelled_node_holds_no_slices(run: Run, given: Any) -> None:
    plain = node("plain")
    del plain["metadata"]["labels"]["nos.nebuly.com/gpu-partitioning"]
    run("plan", "-f", given(plain, pod("p", 10)), "-o", "json")
    assert run.status == 1
    assert run.json["unplaced"][0]["message"] == (
        "10gb: 0 of 0 nodes: no node is labelled nos.nebuly.com/gpu-partitioning=mps"
    )


def test_excluded_gpu_of_a_node_known_by_labels_holds_no_slices(run: Run, given: Any) -> None:
    two = node("n1", count="2")
    two["metadata"]["annotations"] = {"mpslice.io/exclude-gpus": "0"}
    run("plan", "-f", given(two, pod("p", 80), pod("q", 80)), "-o", "json")
    assert run.json["layouts"] == {"n1": {"n1-gpu-1": {"80gb": 1}}}
    assert len(run.json["unplaced"]) == 1


def test_workloads_become_their_pods(run: Run, given: Any) -> None:
    objects = (
        node("n1", count="4"),
        workload("Deployment", "web", 10, replicas=2),
        workload("StatefulSet", "db", 10),
        workload("Job", "batch", 10, parallelism=3, completions=2),
        workload("DaemonSet", "watch", 5),
    )
    run("plan", "-f", given(*objects), "-o", "json")
    assert sorted(placed(run)) == [
        "team/batch-0",
        "team/batch-1",
        "team/db-0",
        "team/watch-0",
        "team/web-0",
        "team/web-1",
    ]


def test_pods_that_exist_are_not_made_again(run: Run, given: Any) -> None:
    owner = {"kind": "ReplicaSet", "name": "web-5d", "controller": True}
    existing = pod("web-5d-x", 10, node="n1", owner=owner)
    existing["metadata"] |= {"namespace": "team", "labels": {"pod-template-hash": "5d"}}
    files = given(node(), existing, workload("Deployment", "web", 10, replicas=3))
    run("plan", "-f", files, "-o", "json")
    assert len(placed(run)) == 2


def test_daemonset_has_a_pod_on_each_eligible_node(run: Run, given: Any) -> None:
    cordoned = node("n2")
    cordoned["spec"] = {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}
    run("plan", "-f", given(node("n1"), cordoned, workload("DaemonSet", "d", 5)), "-o", "json")
    assert list(placed(run).values()) == ["n1"]


def test_priority_class_decides_who_goes_first(run: Run, given: Any) -> None:
    high = {"kind": "PriorityClass", "metadata": {"name": "high"}, "value": 5}
    pods = (pod("a", 60), pod("b", 60, priorityClassName="high"))
    run("plan", "-f", given(node(), high, *pods), "-o", "json")
    assert list(placed(run)) == ["default/b"]


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


def test_other_kinds_are_skipped_and_counted(run: Run, given: Any) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    run("plan", "-f", given(node(), pod("p", 10), service))
    assert run.status == 0
    assert run.err == "skipped, since they do not bear on slices: 1 Service\n"


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


def test_flags_mean_what_they_mean_elsewhere(run: Run, given: Any) -> None:
    files = given(node(), pod("p", 85))
    assert run("plan", "-f", files).status == 0
    assert run("plan", "-f", files, "--memory-unit=GiB").status == 1  # 80 of them
    many = given(node(), *(pod(f"p{i}", 1) for i in range(3)), name="many.yaml")
    assert run("plan", "-f", many, "--max-slices-per-gpu=2").status == 1
    as_root = given(node(), pod("p", 10, securityContext={"runAsUser": 1000}), name="uid.yaml")
    assert run("plan", "-f", as_root).status == 0
    assert run("plan", "-f", as_root, "--mps-user=0", "-o", "json").status == 1
    assert run.json["rejected"][0]["reason"] == "RunAsUserMismatch"


BAD = {
    "missing file": ("/no/such/file.yaml", None, "/no/such/file.yaml: cannot be read: No such"),
    "bad YAML": (None, "kind: Pod\n  metadata: {", ":2: is no YAML: "),
    "bad JSON": ("bad.json", '{"kind": "Pod",\n "metadata": }', ":2: is no JSON: Expecting value"),
    "no kind": (None, "a: 1\n", ":1: is no Kubernetes object: it has no kind"),
    "a text": (None, "hello\n", ":1: is no Kubernetes object"),
    "no name": (None, "kind: Pod\nmetadata: {}\n", ":1: this Pod has no metadata.name"),
    "no containers": (
        None,
        "kind: Pod\nmetadata: {name: p}\nspec: {}\n",
        ":3: Pod p: spec.containers is missing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_input_is_one_line_with_file_and_line(run: Run, tmp_path: Path, case: str) -> None:
    name, text, complaint = BAD[case]
    path = tmp_path / (name or "bad.yaml")  # an absolute name stays as it is
    if text is not None:
        path.write_text(text)
    run("plan", "-f", path)
    assert run.status == 2
    assert run.out == ""
    assert run.err.count("\n") == 1
    where = "" if case == "missing file" else path
    assert run.err.startswith(f"kubectl mpslice: {where}{complaint}")


@pytest.mark.parametrize(
    ("objects", "line", "complaint"),
    [
        ([node(count=None)], 5, "neither a NodeLayout nor the labels nvidia.com/gpu.count"),
        ([node(count="-1")], 7, "label nvidia.com/gpu.count is '-1'; write a whole number"),
        ([node(memory="80 GB")], 8, "label nvidia.com/gpu.memory is '80 GB'"),
        ([workload("Deployment", "web", 10, replicas=-2)], 7, "spec.replicas is -2; write a whole"),
        ([pod("p", 10), pod("p", 10)], 13, "Pod p: is given twice"),
        ([pod("p", 10, priorityClassName="none")], 12, "no PriorityClass 'none' in the input"),
    ],
    ids=["no GPUs", "negative count", "no number", "negative replicas", "twice", "priority"],
)
def test_unusable_object_is_named_with_its_line(
    run: Run, given: Any, objects: list[Json], line: int, complaint: str
) -> None:
    path = given(*objects)
    run("plan", "-f", path)
    assert run.status == 2
    assert run.err.startswith(f"kubectl mpslice: {path}:{line}: ")
    assert complaint in run.err
    assert run.err.count("\n") == 1


ODD: list[tuple[Any, Any]] = [
    (("spec",), 5),
    (("spec", "containers"), "x"),
    (("spec", "containers", 0), None),
    (("spec", "containers", 0, "name"), 5),
    (("spec", "containers", 0, "resources"), 5),
    (("spec", "containers", 0, "resources", "limits"), "x"),
    (("spec", "containers", 0, "resources", "limits"), {5: 6}),
    (("spec", "containers", 0, "ports"), [{"hostPort": "80"}]),
    (("spec", "initContainers"), 5),
    (("spec", "initContainers"), [[]]),
    (("spec", "nodeSelector"), {"a": 1}),
    (("spec", "nodeName"), ["n1"]),
    (("spec", "tolerations"), ["all"]),
    (("spec", "affinity"), {"nodeAffinity": []}),
    (("spec", "schedulingGates"), [{"name": 1}]),
    (("spec", "priority"), True),
    (("metadata", "labels"), 5),
    (("metadata", "ownerReferences"), [5]),
    (("status",), 5),
    (("status",), {"phase": []}),
]


@pytest.mark.parametrize(("path", "value"), ODD)
def test_field_of_another_kind_is_named_with_what_to_write(
    run: Run, given: Any, path: Any, value: Any
) -> None:
    odd: Any = pod("p", 10)
    place = odd
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    run("plan", "-f", given(node(), odd))
    assert run.status == 2, run.out
    assert run.err.count("\n") == 1
    assert "Pod p: " in run.err
    assert "; write a" in run.err or "is missing" in run.err or "has no name" in run.err


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


def test_kind_of_another_group_is_skipped(run: Run, given: Any) -> None:
    volcano = {"apiVersion": "batch.volcano.sh/v1", "kind": "Job", "metadata": {"name": "j"}}
    run("plan", "-f", given(node(), volcano))
    assert run.status == 0
    assert run.err.endswith(": 1 Job\n")


def test_count_beyond_all_reason_is_planned_as_what_it_is(run: Run, given: Any) -> None:
    huge = pod("p", 10, node="n1")
    huge["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu-10gb"] = 2**63 - 1
    assert run("plan", "-f", given(node(), huge)).status == 0


def test_negative_slice_count_is_named_with_its_field(run: Run, given: Any) -> None:
    bad = pod("p", 10)
    bad["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu-10gb"] = -1
    run("plan", "-f", given(node(), bad))
    assert run.status == 2
    assert (
        "Pod p: spec.containers[0].resources.limits.nvidia.com/gpu-10gb is -1; "
        "write a quantity of 0 or more"
    ) in run.err


def test_help_needs_no_kubernetes_client() -> None:
    code = (
        "import sys; from cli.offline import run; import cli.report, cli.main;"
        "sys.exit(any(name.split('.')[0] in ('kubernetes_asyncio', 'aiohttp', 'grpc')"
        " for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=30)
    assert done.returncode == 0


def test_missing_flag_is_one_line(run: Run) -> None:
    run("plan")
    assert run.status == 2
    assert run.err.count("\n") == 1
