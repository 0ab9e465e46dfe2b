"""What a pod is made to ask for as mpslice.io/gb is what it holds, in whatever containers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.state.parse import parse_pod
from tests.webhook.cases import GB, SLICE, Manifest, container, pod
from tests.webhook.judging import mutate, read, validate
from webhook.offline import admit
from webhook.pods import read_pod
from webhook.quota import charges
from webhook.settings import Settings
from webhook.verdicts import Reason

QUOTA = Settings(quota=True)
SIDECAR = {"restartPolicy": "Always"}


def sized(size: int, name: str = "main", **fields: Any) -> Manifest:
    return container({f"nvidia.com/gpu-{size}gb": 1} if size else {}, name=name, **fields)


def counted(manifest: Manifest) -> dict[str, tuple[str | None, str | None]]:
    """By container, the gb of its limits and requests once the pod was admitted."""
    admitted = admit(manifest, QUOTA)
    assert admitted.verdict.allowed, admitted.verdict.message
    spec = admitted.pod["spec"]
    return {
        each["name"]: (
            each.get("resources", {}).get("limits", {}).get(GB),
            each.get("resources", {}).get("requests", {}).get(GB),
        )
        for each in (*spec.get("initContainers", ()), *spec["containers"])
    }


def pod_requests(spec: Manifest) -> int:
    """As ResourceQuota and the scheduler sum up (component-helpers/resource/helpers.go)."""
    running = most = 0
    for each in spec.get("initContainers", ()):
        amount = int(each.get("resources", {}).get("requests", {}).get(GB, 0))
        if each.get("restartPolicy") == "Always":
            running += amount
            most = max(most, running)
        else:
            most = max(most, running + amount)
    for each in spec["containers"]:
        running += int(each.get("resources", {}).get("requests", {}).get(GB, 0))
    return max(most, running)


def test_slice_containers_of_every_kind_get_the_gb_of_their_slice() -> None:
    manifest = pod(
        sized(30),
        sized(0, "proxy"),
        init=(sized(30, "setup"), sized(20, "side", **SIDECAR)),
    )
    assert counted(manifest) == {
        "setup": ("30", "30"),
        "side": ("20", "20"),
        "main": ("30", "30"),
        "proxy": (None, None),
    }


def test_slice_that_only_an_init_container_has_is_counted_with_the_first_container() -> None:
    manifest = pod(sized(0, "first"), sized(10), init=(sized(20, "setup"),))
    assert counted(manifest) == {
        "setup": ("20", "20"),
        "first": ("20", "20"),
        "main": ("10", "10"),
    }


_SIZES = st.sampled_from([0, 0, 10, 10, 20, 30])


@given(
    st.lists(st.tuples(_SIZES, st.booleans()), max_size=5),
    st.lists(_SIZES, min_size=1, max_size=4),
)
def test_sum_that_kubernetes_makes_is_what_the_planner_seats(
    init: list[tuple[int, bool]], main: list[int]
) -> None:
    manifest = pod(
        *(sized(size, f"c{i}") for i, size in enumerate(main)),
        init=tuple(
            sized(size, f"i{i}", **(SIDECAR if sidecar else {}))
            for i, (size, sidecar) in enumerate(init)
        ),
    )
    admitted = admit(manifest, QUOTA)
    assert admitted.verdict.allowed, admitted.verdict.message
    assert pod_requests(admitted.pod["spec"]) == sum(parse_pod(dict(admitted.pod)).seats)


@pytest.mark.parametrize("written", [0, "0", 5, "5", 10, "10", "1e1", -1, "x", None, 1.5, "10000m"])
def test_whatever_is_written_the_slice_is_counted(written: object) -> None:
    manifest = pod(container({SLICE: 1, GB: written}, requests={GB: written}))
    (both,) = counted(manifest).values()
    assert both in (("10", "10"), (written, written))
    assert mutate(admit(manifest, QUOTA).pod, QUOTA).patch == ()


def test_container_beside_the_slice_keeps_nothing() -> None:
    proxy = container({GB: 7, "cpu": "1"}, name="proxy", requests={GB: 7, "cpu": "1"})
    assert counted(pod(container(), proxy))["proxy"] == ("0", "0")


def test_claims_of_the_first_container_stay_beside_what_it_counts() -> None:
    first = sized(0, "first")
    first["resources"] = {"claims": [{"name": "net"}]}
    admitted = admit(pod(first, sized(10), init=(sized(20, "setup"),)), QUOTA).pod
    resources = admitted["spec"]["containers"][0]["resources"]
    assert resources == {"claims": [{"name": "net"}], "limits": {GB: "20"}, "requests": {GB: "20"}}


def test_several_slices_that_are_only_warned_of_all_count() -> None:
    view = read_pod(read(pod(container({SLICE: 2, "nvidia.com/gpu-20gb": 1}))))
    assert charges(view, QUOTA) == [40]


def test_pod_without_slices_is_left_alone() -> None:
    assert mutate(pod(container({"cpu": 1})), QUOTA).patch == ()
    assert validate(pod(container({"cpu": 1, GB: 0})), QUOTA).allowed


def test_gb_that_another_webhook_changes_is_refused() -> None:
    stored = admit(pod(), QUOTA).pod
    for field in ("limits", "requests"):
        changed = admit(pod(), QUOTA).pod
        changed["spec"]["containers"][0]["resources"][field][GB] = "1"
        verdict = validate(changed, QUOTA)
        assert verdict.reason is Reason.QUOTA_MISMATCH
        assert f"resources.{field} asks for {GB}: 1, but it counts 10gb" in verdict.message
        del changed["spec"]["containers"][0]["resources"][field][GB]
        assert f"resources.{field} does not ask for {GB}" in validate(changed, QUOTA).message
    assert validate(stored, QUOTA).allowed


def test_pods_from_before_change_as_they_could_before() -> None:
    old = admit(pod(), Settings()).pod
    new = {**old, "metadata": {**old["metadata"], "labels": {"a": "b"}}}
    assert validate(new, QUOTA, old=old).allowed
    assert validate(new, QUOTA).reason is Reason.QUOTA_MISMATCH


def test_without_a_quota_what_was_counted_becomes_nothing() -> None:
    copied = admit(pod(), QUOTA).pod
    resources = "/spec/containers/0/resources"
    assert list(mutate(copied, Settings()).patch) == [
        {"op": "add", "path": f"{resources}/{side}/mpslice.io~1gb", "value": "0"}
        for side in ("requests", "limits")
    ]
