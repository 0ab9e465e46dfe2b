"""What people have reported of their clusters, and what the plan says of each."""

from cli.plan.outcome import ASKS_FOR_NONE
from tests.cli.plan.conftest import Plan
from tests.cli.plan.given import Json, asking, node, pod

GROUP = "scheduling.x-k8s.io/pod-group"


def pod_group(name: str, minimum: int) -> Json:
    return {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "kind": "PodGroup",
        "metadata": {"name": name},
        "spec": {"minMember": minimum},
    }


def in_group(made: Json, name: str, **annotations: str) -> Json:
    made["metadata"] |= {"labels": {GROUP: name}, "annotations": annotations}
    return made


def test_launcher_without_a_slice_counts_for_its_group(plan: Plan) -> None:
    launcher = in_group(asking("launcher", {"cpu": 1}), "mpi")
    workers = [in_group(pod(f"worker-{i}", 10), "mpi") for i in range(2)]
    made = plan(node(), pod_group("mpi", 3), launcher, *workers)
    assert made.status == 0
    assert len(made.placed) == 2


def test_finished_and_running_members_count_for_their_group(plan: Plan) -> None:
    least = {"mpslice.io/min-member": "3"}
    done, running = (
        in_group(pod(name, 10, node="n1"), "g", **least) | {"status": {"phase": phase}}
        for name, phase in (("a0", "Succeeded"), ("a1", "Running"))
    )
    made = plan(node(), done, running, in_group(pod("a2", 10), "g", **least))
    assert made.placed == {"default/a2": "n1"}


def test_pod_of_a_higher_priority_waits_where_slices_of_another_size_are_used(plan: Plan) -> None:
    low = [
        pod(f"low{i}", 8, node="n1", priority=0) | {"status": {"phase": "Running"}}
        for i in range(2)
    ]
    made = plan(node(memory="15360"), *low, pod("high", 10, priority=1000))
    assert made.unplaced == {
        "default/high": "10gb: 0 of 1 nodes: 1 GPUMemory (largest hole 0gb on n1 GPU 0)"
    }


def with_shared_memory(made: Json) -> Json:
    """As KubeRay and Kubeflow's notebook controller add it."""
    made["spec"]["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
    return made


def test_mount_of_an_operator_is_refused_with_the_value_that_takes_it_away(plan: Plan) -> None:
    (rejected,) = plan(node(), with_shared_memory(pod("worker", 10))).json["rejected"]
    assert rejected["reason"] == "ReservedMount"
    assert "admission.devShm=strip where an operator adds it" in rejected["message"]


def test_pods_of_operators_that_work_are_planned(plan: Plan) -> None:
    jupyter = pod("jupyter", 10, schedulerName="hub-scheduler")
    jupyter["spec"]["securityContext"] = {"fsGroup": 100, "runAsUser": 1000}
    sidecar = {"name": "queue-proxy", "image": "q", "securityContext": {"runAsNonRoot": True}}
    knative = pod("knative", 10)
    knative["spec"]["containers"].append(sidecar)
    argo = pod("argo", 10, initContainers=[{"name": "init", "image": "argoexec"}])
    made = plan(node(), jupyter, knative, argo, pod("tekton", 10, 10))
    assert made.status == 0
    assert len(made.placed) == 4


def test_deployment_with_a_node_name_is_judged_and_warned_of(plan: Plan) -> None:
    bound = with_shared_memory(pod("video", 10, node="n1"))
    (rejected,) = plan(node(), bound).json["rejected"]
    assert rejected["reason"] == "ReservedMount"
    made = plan(node(), pod("video", 10, node="n1"))
    assert made.warnings["Pod default/video"].startswith("NodeNameSet: ")


def test_slice_beside_another_projects_memory_waits_for_that(plan: Plan) -> None:
    both = asking("hami", {"nvidia.com/gpu-10gb": 1, "nvidia.com/gpumem": 3000})
    made = plan(node(), both)
    assert made.unplaced == {
        "default/hami": (
            "10gb: 0 of 1 nodes: 1 ExtendedResource (nvidia.com/gpumem: wants 3000, most free 0)"
        )
    }
    assert ASKS_FOR_NONE not in {each["reason"] for each in made.json["unplanned"]}
