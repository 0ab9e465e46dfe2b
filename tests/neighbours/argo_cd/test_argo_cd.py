"""The chart as an Application of Argo CD: it is in sync once mpslice is at work, a sync by itself
changes nothing that mpslice has written, and what somebody else changes is seen and mended."""

import json
from typing import Any

import pytest

from hack.cluster.parts import Parts
from tests.e2e.cluster import slice_pod, until
from tests.helm.release import NAMESPACE, Release
from tests.neighbours.argo_cd.application import MODES, ArgoCD, application, out_of_sync

pytestmark = pytest.mark.usefixtures("machine_without_node")

Json = dict[str, Any]
_WORKLOADS = ("deployment/mpslice-webhook", "deployment/mpslice-planner")
_AGENTS = ("daemonset/mpslice-nodeagent",)
_PLANNER = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/mpslice-planner"


@pytest.fixture(scope="module")
def argo_cd(
    place: Release, neighbour_parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> ArgoCD:
    """It has installed the chart; the node is handed over, and a slice pod runs on it."""
    found = ArgoCD(place, tmp_path_factory.mktemp("argo-cd"))
    found.prepare()
    found.sync(application(MODES[0]))
    at_work(place)
    place.hand_over()
    place.pods.apply(slice_pod("train", 10))
    place.pods.running("train")
    until(lambda: place.holders() == {"default/train"}, "the NodeLayout names its holder")
    return found


def at_work(release: Release) -> None:
    for name in (*_WORKLOADS, *_AGENTS):
        where = f"--namespace={NAMESPACE}"
        release.plane.kubectl("rollout", "status", name, where, "--timeout=240s")


def written(release: Release, objects: list[Json]) -> list[Json]:
    """The release's objects and the Secret of the webhook, without their status."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mpslice-webhook-tls", "namespace": NAMESPACE},
    }
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [secret, *objects]})
    done = release.plane.kubectl("get", "--filename=-", "--output=json", input=text)
    found: list[Json] = json.loads(done.stdout)["items"]
    for each in found:
        each.pop("status", None)
        for name in ("managedFields", "resourceVersion"):  # which a new status changes, too
            each["metadata"].pop(name, None)
    return found


def without_hooks(objects: list[Json]) -> list[Json]:
    return [
        each for each in objects if "helm.sh/hook" not in each["metadata"].get("annotations", {})
    ]


@pytest.mark.parametrize("mode", MODES)
def test_installed_chart_is_in_sync_and_a_sync_changes_nothing_that_mpslice_wrote(
    argo_cd: ArgoCD, mode: str
) -> None:
    """Nothing has to be ignored: the chart leaves out what mpslice writes."""
    release, wanted = argo_cd.release, application(mode)
    assert "ignoreDifferences" not in wanted["spec"]
    objects = without_hooks(argo_cd.objects())
    argo_cd.sync(wanted)  # another mode may have written before, in its own way
    compared = argo_cd.compare(wanted)
    assert out_of_sync(compared) == {}
    assert compared["status"] == "Synced"
    assert compared["hooks"] == []
    # The chart's objects for `helm test` have no status, and nothing is about to be pruned.
    kept = {(each["kind"], each["name"]) for each in compared["resources"] if each["status"]}
    assert kept == {(each["kind"], each["metadata"]["name"]) for each in objects}

    before, process = written(release, objects), release.process("train")
    held, layout = release.held(), release.layout()
    done = argo_cd.sync(wanted)
    assert out_of_sync(done) == {}
    assert written(release, objects) == before
    assert all(
        webhook["clientConfig"]["caBundle"]
        for each in before
        if each["kind"].endswith("WebhookConfiguration")
        for webhook in each["webhooks"]
    )
    now = release.layout()
    assert layout
    assert now
    assert now["metadata"]["uid"] == layout["metadata"]["uid"]
    assert release.held() == held
    assert release.process("train") == process


@pytest.mark.parametrize("mode", MODES)
def test_what_somebody_changes_is_seen_and_mended(argo_cd: ArgoCD, mode: str) -> None:
    release, wanted = argo_cd.release, application(mode)
    argo_cd.sync(wanted)
    count = release.plane.api.get(_PLANNER)["spec"]["replicas"]
    body = {"spec": {"replicas": count + 1}}
    release.plane.api.request("PATCH", _PLANNER, body, "application/merge-patch+json")
    compared = argo_cd.compare(wanted)
    assert compared["status"] == "OutOfSync"
    ((name, (live, predicted)),) = out_of_sync(compared).items()
    assert name == "Deployment/mpslice-planner"
    assert (live["spec"]["replicas"], predicted["spec"]["replicas"]) == (count + 1, count)
    argo_cd.sync(wanted)
    assert release.plane.api.get(_PLANNER)["spec"]["replicas"] == count
    assert out_of_sync(argo_cd.compare(wanted)) == {}
