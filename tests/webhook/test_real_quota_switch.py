"""Quota in gb without the webhook, and turned on and off under pods that are there."""

import json
from collections.abc import Iterator

import pytest

from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE
from tests.webhook.cases import GB, SLICE, Manifest, container, pod
from tests.webhook.cluster import Installation, called, create
from tests.webhook.quotas import Team, quota_of, sized

pytestmark = [pytest.mark.usefixtures("restored")]


@pytest.fixture
def restored(installation: Installation) -> Iterator[None]:
    """Afterwards the chart has its default values again."""
    yield
    installation.install()


def test_policy_holds_while_the_webhook_is_away(installation: Installation) -> None:
    installation.install("quota.enabled=true", "admission.failurePolicy=Ignore")
    installation.publish([])
    bare = pod(sized(10), hostIPC=True, securityContext={"runAsUser": 1000})
    team = Team(installation, "quota-policy")

    def refused() -> str:
        return create(installation, called(bare, "p", team.name))[1]

    told = wait_until(
        lambda: said if "QuotaMismatch" in (said := refused()) else "", "it holds", seconds=DEADLINE
    )
    assert f"resources.limits does not ask for {GB}, but it counts 10gb" in told
    whole = pod(container({SLICE: 1, GB: 10}), hostIPC=True, securityContext={"runAsUser": 1000})
    assert create(installation, called(whole, "p", team.name))[1] == ""


def test_turning_it_on_and_off_leaves_running_pods_alone(installation: Installation) -> None:
    installation.install()
    team = Team(installation, "quota-turned")
    team.apply(quota_of(40))
    team.until_used(0)
    with installation.serving():
        assert team.create("before", pod(sized(30))) == ""
    installation.install("quota.enabled=true")
    with installation.serving("--quota=true"):
        team.kubectl("label", "pod", "before", "changed=yes")
        image = '{"spec": {"containers": [{"name": "main", "image": "another"}]}}'
        assert "patched" in team.kubectl("patch", "pod", "before", "--patch", image)
        assert team.used() == 0  # what was there before is not counted
        assert team.create("during", pod(sized(40))) == ""
        team.until_used(40)
        assert "exceeded quota" in team.create("too-many", pod(sized(1)))
    installation.install()
    with installation.serving():
        assert team.create("after", pod(sized(80))) == ""
        assert GB not in json.dumps(team.get("pod", "after"))
        copied = team.get("pod", "during")
        assert team.create("copied", {**copied, "spec": clean(copied["spec"])}) == ""
        amounts = team.get("pod", "copied")["spec"]["containers"][0]["resources"]
        assert (amounts["limits"][GB], amounts["requests"][GB]) == ("0", "0")
        assert "patched" in team.kubectl("patch", "pod", "during", "--patch", image)
        team.until_used(40)  # until it ends
        team.delete("pod", "during")
        team.until_used(0)


def clean(spec: Manifest) -> Manifest:
    """Without what the API server adds to a pod of its own accord."""
    names = ("volumes", "serviceAccount", "serviceAccountName", "tolerations", "nodeName")
    kept = {key: value for key, value in spec.items() if key not in names}
    kept["containers"] = [
        {key: value for key, value in each.items() if key != "volumeMounts"}
        for each in spec["containers"]
    ]
    return kept
