"""Who holds a slice, when each source tells only a part."""

from mpslice.gpus import DeviceId, GpuUuid
from mpslice.slices import SliceSize
from nodeagent.slices.holders import Claim, Evidence, Holder, Pods, explained, resolve, with_uids
from nodeagent.slices.pods import Need, PodFacts


def slice_(ordinal: int) -> DeviceId:
    return DeviceId(GpuUuid("GPU-a"), SliceSize(10), ordinal)


def pod(name: str, *, uid: str = "", ended: bool = False) -> PodFacts:
    needs = (Need("main", SliceSize(10)),)
    return PodFacts(key=f"ns/{name}", uid=uid or f"uid-{name}", needs=needs, ended=ended)


NOBODY = Pods.of([])


def test_listed_container_holds() -> None:
    pods = Pods.of([pod("a")])
    listed = with_uids([Claim(slice_(0), "main", pod="ns/a")], pods)
    assert resolve(Evidence(listed=listed), {}, set(), pods) == {
        slice_(0): Holder("ns/a", "main", "uid-a")
    }


def test_listed_pod_that_the_api_does_not_know_is_believed() -> None:
    listed = with_uids([Claim(slice_(0), "main", pod="ns/a")], NOBODY)
    assert resolve(Evidence(listed=listed), {}, set(), NOBODY) == {
        slice_(0): Holder("ns/a", "main")
    }


def test_pod_that_only_the_checkpoint_knows_is_not() -> None:
    evidence = Evidence(checkpointed=(Claim(slice_(0), "main", uid="uid-a"),))
    assert resolve(evidence, {}, set(), NOBODY) == {}


def test_checkpoint_tells_of_init_containers_of_live_pods() -> None:
    evidence = Evidence(checkpointed=(Claim(slice_(0), "init", uid="uid-a"),))
    assert resolve(evidence, {}, set(), Pods.of([pod("a")])) == {
        slice_(0): Holder("ns/a", "init", "uid-a")
    }


def test_pod_that_has_ended_holds_nothing_though_both_still_show_it() -> None:
    evidence = Evidence(
        listed=(Claim(slice_(0), "main", pod="ns/a", uid="uid-a"),),
        checkpointed=(Claim(slice_(0), "main", uid="uid-a"),),
    )
    assert resolve(evidence, {}, set(), Pods.of([pod("a", ended=True)])) == {}


def test_end_of_a_pod_ends_its_claim_when_another_of_its_name_has_come() -> None:
    read = with_uids([Claim(slice_(0), "main", pod="ns/a")], Pods.of([pod("a", uid="first")]))
    later = Pods.of([pod("a", uid="second")])
    assert resolve(Evidence(listed=with_uids(read, later)), {}, set(), later) == {}


def test_allocate_that_nothing_explains_yet_holds() -> None:
    assert resolve(Evidence(), {}, {slice_(0)}, NOBODY) == {slice_(0): Holder()}


def test_remembered_holder_holds_while_its_pod_lives() -> None:
    remembered = {slice_(0): Holder("ns/a", "main")}
    assert resolve(Evidence(), remembered, set(), Pods.of([pod("a")])) == {
        slice_(0): Holder("ns/a", "main", "uid-a")
    }
    assert resolve(Evidence(), remembered, set(), Pods.of([pod("a", ended=True)])) == {}
    assert resolve(Evidence(), remembered, set(), NOBODY) == {}


def test_remembered_holder_gives_way_when_its_container_is_shown_elsewhere() -> None:
    pods = Pods.of([pod("a")])
    listed = (Claim(slice_(1), "main", pod="ns/a", uid="uid-a"),)
    remembered = {slice_(0): Holder("ns/a", "main", "uid-a")}
    assert resolve(Evidence(listed=listed), remembered, set(), pods).keys() == {slice_(1)}


def test_app_container_is_named_before_the_init_container_that_had_the_slice() -> None:
    pods = Pods.of([pod("a")])
    evidence = Evidence(
        listed=(Claim(slice_(0), "app", pod="ns/a", uid="uid-a"),),
        checkpointed=(
            Claim(slice_(0), "app", uid="uid-a"),
            Claim(slice_(0), "init", uid="uid-a"),
        ),
    )
    assert explained(evidence, pods)[slice_(0)].container == "app"
