"""The planner's token does what planner/writes sends, and nothing else, on a real API server."""

import asyncio
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hack.cluster.controlplane import ControlPlane
from mpslice.gpus import GpuUuid
from mpslice.kube.api import NODE_LAYOUTS, NODES, Kube
from mpslice.kube.elector import Elector, Timing
from mpslice.kube.errors import ApiError
from mpslice.kube.events import EventRecorder, EventType, ObjectRef
from mpslice.kube.session import Session
from mpslice.nodelayout import GpuSpec, LayoutSpec, parse_node_layout
from mpslice.slices import SliceSize
from planner.model.pods import GATE, Available, Pod
from planner.service import LEASE
from planner.state.parse import parse_node, parse_pod
from planner.writes.actions import (
    Action,
    CreateLayout,
    DeleteLayout,
    Evict,
    Inform,
    Nominate,
    SetManaged,
    Ungate,
    WriteSpec,
)
from planner.writes.perform import perform
from tests.helm.accounts import (
    NAMESPACE,
    STRATEGIC,
    Account,
    Write,
    apply,
    install_accounts,
    type_warnings,
)
from tests.helm.planner_writes import (
    ALLOWED,
    EVENTS,
    LAYOUTS,
    LEASES,
    NODE,
    NODE_PATH,
    OTHER_POD,
    OTHERS_CONDITION,
    OTHERS_GATE,
    PLAIN,
    POD,
    REFUSED,
    SLICED,
    SPARE,
    event,
    layout,
    node,
    pod,
)
from tests.waiting import eventually


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    install_accounts(control_plane)
    crd = "crd/nodelayouts.mpslice.io"
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=20s", crd)
    slices = {"nvidia.com/gpu-10gb": "1"}
    apply(control_plane, node(NODE), node(SPARE), pod(SLICED, slices), pod(PLAIN, {}))
    uid = control_plane.api.get(NODE_PATH)["metadata"]["uid"]
    apply(control_plane, layout(NODE, uid), event("policy-others", "kubelet"))
    status = {"status": {"conditions": [OTHERS_CONDITION]}}
    for path in (POD, OTHER_POD):
        control_plane.api.request("PATCH", f"{path}/status", status, STRATEGIC)
    yield control_plane
    for kind, *names in (
        ("pod", SLICED, PLAIN),
        ("nodelayout", NODE, SPARE),
        ("node", NODE, SPARE),
    ):
        control_plane.kubectl("delete", kind, *names, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def planner(plane: ControlPlane) -> Account:
    """The planner's account; its policies are in force."""
    account = Account(plane, "mpslice-planner")
    for write, words in (
        (Write(POD, {"metadata": {"labels": {"app": "mine"}}}), "metadata"),
        (Write(NODE_PATH, {"metadata": {"labels": {"a": "b"}}}), "label of a node"),
        (Write(f"{LAYOUTS}/{NODE}", {"metadata": {"labels": {"a": "b"}}}), "but its spec"),
        (Write(EVENTS, event("any", "kubelet"), "POST"), "another's name"),
    ):
        account.until_refused(write, words)
    return account


# What the planner's own code sends.


@pytest.fixture
async def kube(planner: Account, tmp_path: Path) -> AsyncIterator[Session]:
    """As the planner's process has it."""
    config = str(planner.kubeconfig(tmp_path / "config"))
    async with await Session.connect("planner", config) as session:
        yield session


@pytest.fixture
def own_pod(plane: ControlPlane) -> Iterator[Callable[[], Pod]]:
    """A slice pod of one test's own with both gates, and how it is now."""
    name = "policy-own-pod"
    apply(plane, pod(name, {"nvidia.com/gpu-10gb": "1"}))
    yield lambda: parse_pod(plane.api.get(f"/api/v1/namespaces/default/pods/{name}"))
    plane.kubectl("delete", "pod", name, "--wait=true", "--grace-period=0", "--force")


async def _ungate(kube: Kube, pod: Pod) -> Action:
    return Ungate(pod, carved=True)


async def _nominate(kube: Kube, pod: Pod) -> Action:
    return Nominate(pod, NODE)


async def _inform(kube: Kube, pod: Pod) -> Action:
    now = "2026-01-01T12:00:00Z"
    return Inform(pod, '{"reserving":"' + now + '"}', Available(False, "CPU", "why", now, now))


async def _set_managed(kube: Kube, pod: Pod) -> Action:
    return SetManaged(parse_node(await kube.read(NODES, SPARE)), managed=True)


async def _create_layout(kube: Kube, pod: Pod) -> Action:
    return CreateLayout(parse_node(await kube.read(NODES, SPARE)))


async def _write_spec(kube: Kube, pod: Pod) -> Action:
    spec = LayoutSpec((GpuSpec(GpuUuid("GPU-1"), {SliceSize(10): 2}),))
    return WriteSpec(parse_node_layout(await kube.read(NODE_LAYOUTS, SPARE)), spec)


async def _delete_layout(kube: Kube, pod: Pod) -> Action:
    return DeleteLayout(parse_node_layout(await kube.read(NODE_LAYOUTS, SPARE)))


Make = Callable[[Kube, Pod], Awaitable[Action]]
# In the order of a node's life, since each begins where the one before has ended.
ACTIONS: dict[type[Action], Make] = {
    SetManaged: _set_managed,
    CreateLayout: _create_layout,
    WriteSpec: _write_spec,
    DeleteLayout: _delete_layout,
    Nominate: _nominate,
    Inform: _inform,
    Ungate: _ungate,
}


def test_the_table_has_every_action_of_the_planner() -> None:
    by_preemption = {Evict}  # which is off here; see test_planner_preemption.py
    assert set(ACTIONS) | by_preemption == set(typing.get_args(Action))


async def test_the_planners_own_code_does_all_that_it_can_do(
    kube: Session, own_pod: Callable[[], Pod]
) -> None:
    """As `perform` sends it, not in dry run."""
    for make in ACTIONS.values():
        await perform(kube, await make(kube, own_pod()))
    after = own_pod()
    assert (after.gates, after.nominated) == ((OTHERS_GATE["name"],), NODE)
    assert after.progress.startswith('{"reserving"')
    assert after.available is not None
    assert (after.available.status, after.available.reason) == (False, "CPU")
    await perform(kube, Nominate(after, ""))
    spare = parse_node(await kube.read(NODES, SPARE))
    assert spare.labels["mpslice.io/managed"] == "true"
    await perform(kube, SetManaged(spare, managed=False))
    assert "mpslice.io/managed" not in parse_node(await kube.read(NODES, SPARE)).labels


async def test_the_planners_code_is_held_like_everybody_with_its_token(
    kube: Session, plane: ControlPlane
) -> None:
    plain = parse_pod(plane.api.get(OTHER_POD))
    with pytest.raises(ApiError, match="changes no pod that asks for no slice"):
        await perform(kube, Ungate(plain, carved=False))
    sliced = parse_pod(plane.api.get(POD))
    with pytest.raises(ApiError, match=r"takes away the scheduling gate .* and no other"):
        await perform(kube, Ungate(replace(sliced, gates=(GATE,)), carved=True))


async def test_the_planner_leads_and_records_events(kube: Session, plane: ControlPlane) -> None:
    """The Lease is made, renewed and released; an Event is made, counted and taken over."""
    plane.kubectl("delete", "lease", LEASE, f"-n={NAMESPACE}", "--ignore-not-found")
    timing = Timing(lease=3.0, renew_within=2.0, retry=0.05)
    got: list[str] = []
    for identity in ("one", "two"):  # the second finds the Lease and the Event of the first
        elector = Elector(
            kube,
            namespace=NAMESPACE,
            name=LEASE,
            identity=identity,
            timing=timing,
            message=lambda name=identity: f"from {name}",  # type: ignore[misc]
        )
        recorder = EventRecorder(kube, "mpslice-planner")
        about = ObjectRef("v1", "Pod", SLICED, "default", uid="policy-uid")

        async def tell(
            message: str, recorder: EventRecorder = recorder, about: ObjectRef = about
        ) -> None:
            got.append(message)
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(recorder.run())
                before = _counted(plane)
                for more in (1, 2):
                    recorder.record(about, EventType.WARNING, "SliceUnavailable", "A test.")
                    await eventually(
                        lambda n=before + more: asyncio.to_thread(lambda: _counted(plane) == n),  # type: ignore[misc]
                        "the Event is counted",
                    )
                writing.cancel()

        await elector.run(tell)
    held = plane.api.get(f"{LEASES}/{LEASE}")["spec"]
    assert held["holderIdentity"] == ""
    assert held["leaseTransitions"] >= 2
    assert got == ["", "from one"]
    assert _counted(plane) == 4


def _counted(plane: ControlPlane) -> int:
    found = plane.api.get(EVENTS)["items"]
    mine = (e for e in found if e["involvedObject"].get("uid") == "policy-uid")
    return next((int(e["count"]) for e in mine), 0)


@pytest.mark.parametrize("what", ALLOWED)
def test_the_planner_may_write(planner: Account, what: str) -> None:
    assert planner.ask(ALLOWED[what]) == ""


@pytest.mark.parametrize("what", REFUSED)
def test_the_planner_may_not_write(planner: Account, what: str) -> None:
    write, words = REFUSED[what]
    assert words in planner.ask(write)


def test_everybody_else_is_left_alone(plane: ControlPlane, planner: Account) -> None:
    body = {"metadata": {"labels": {"example.org/by": "admin"}}}
    for path in (POD, OTHER_POD, NODE_PATH, f"{LAYOUTS}/{NODE}"):
        plane.api.request("PATCH", f"{path}?dryRun=All", body, "application/merge-patch+json")


def test_the_api_server_finds_nothing_wrong_with_the_policies(
    plane: ControlPlane, planner: Account
) -> None:
    for name in ("pods", "nodes", "layouts", "records"):
        assert type_warnings(plane, f"mpslice-planner-{name}") == []
