"""Each reason for which a GPU is not served, from what the agent sees to what people read: its
Event, the NodeLayout's status, `why`, `status` and the page.

The agent's own functions judge, tell and report; only the driver and the kubelet are not there.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.observe import Observer, judged
from cli.status.draw import draw as draw_status
from cli.status.picture import picture as status_picture
from cli.terminal import ASCII, text_of
from cli.why import advice
from cli.why.ask import ask, target
from cli.why.draw import draw
from mpslice.gpus import GpuUuid
from mpslice.kube.api import Json
from mpslice.kube.events import EventType
from mpslice.nodelayout import Condition, ConditionType, LayoutStatus, status_to_json
from nodeagent.cluster.report import gpu_statuses, readiness
from nodeagent.errors import DriverHangs
from nodeagent.gpus import health, refusals
from nodeagent.gpus.board import GpuBoard
from nodeagent.gpus.foreign import ForeignDevices
from nodeagent.gpus.health import Look, SeenXid
from nodeagent.hardware import ComputeCapability, Gpu, MpsHealth
from nodeagent.mps import client
from nodeagent.mps.records import MpsState, Status
from nodeagent.settings import Settings
from nodeagent.slices.evidence import Pods
from nodeagent.slices.pods import PodFacts
from nodeagent.slices.table import SliceTable
from planner.ui.changes import changes
from planner.ui.picture import Picture
from planner.ui.picture import picture as page_picture
from planner.ui.seen import Seen
from tests.cli.fake_api import FakeApi, cluster
from tests.cli.objects import LABEL, layout, node

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SICK, WELL = GpuUuid("GPU-n1-0"), GpuUuid("GPU-n1-1")
A100 = Gpu(SICK, 0, "NVIDIA A100", 81_920, 626, ComputeCapability(8, 0))
OTHER = replace(A100, uuid=WELL, index=1)
PLUGIN_OF_NOS = PodFacts("nebuly/plugin", "uid-plugin", (), nos_plugin=True)
SETTINGS = Settings("n1", Path("/plugins"), Path("/pod-resources"), Path("/mps"), None)


def judge(look: Look, xid: SeenXid | None = None) -> Gpu:
    """GPU 0 as the agent judges it by one look at the driver."""
    return health.judge((A100, OTHER), look, {SICK: xid} if xid else {}, now=1.0)[0]


def daemon(state: MpsState) -> MpsHealth:
    """How the agent sees a daemon of which its supervisor has said this state."""
    return client.judge(Status(state=state, message="as the supervisor says"), 0.0)


@dataclass(frozen=True)
class Trouble:
    """What the agent sees that makes GPU 0 one that is not served, and its Event."""

    reason: str
    event: str
    words: str
    gpu: Gpu = A100
    excluded: frozenset[str] = frozenset()
    foreign: str = ""
    mps: MpsHealth = field(default_factory=MpsHealth)
    pods: Pods = field(default_factory=Pods)


REFUSED, UNHEALTHY = "GPURefused", "GPUUnhealthy"
TROUBLES = [
    Trouble("Excluded", REFUSED, "exclude-gpus names it", excluded=frozenset({"0"})),
    Trouble("MigMode", REFUSED, "it is in MIG mode", replace(A100, mig=True)),
    Trouble(
        "TooOld",
        REFUSED,
        "it is of generation 6.1",
        replace(A100, compute_capability=ComputeCapability(6, 1)),
    ),
    Trouble(
        "NothingLeft",
        REFUSED,
        "leave 64 of its 81920 MiB",
        replace(A100, reserved_mib=81_920 - 256 - 64),
    ),
    Trouble("ForeignPlugin", REFUSED, "offers it as nvidia.com/gpu", foreign="nvidia.com/gpu"),
    Trouble(
        "ForeignPartitioner",
        "ForeignPartitioner",
        "nos's device plugin runs on this node (nebuly/plugin)",
        pods=Pods.of([PLUGIN_OF_NOS]),
    ),
    Trouble("XidError", UNHEALTHY, "Xid 79", judge(Look((A100, OTHER)), SeenXid(79, 0.0))),
    Trouble(
        "ResetRequired",
        UNHEALTHY,
        "the driver asks for it",
        judge(Look((A100, OTHER), recovery={SICK: True})),
    ),
    Trouble("Lost", UNHEALTHY, "the driver shows it no more", judge(Look((OTHER,)))),
    Trouble(
        "DriverHangs",
        UNHEALTHY,
        "no answer in 10 s",
        judge(Look(failure=DriverHangs("no answer in 10 s"))),
    ),
    *(
        Trouble(reason, UNHEALTHY, "as the supervisor says", mps=daemon(state))
        for reason, state in (
            (client.MPS_DOWN, MpsState.DOWN),
            (client.MPS_FAULT, MpsState.FAULT),
            (client.MPS_WRONG_USER, MpsState.WRONG_USER),
        )
    ),
]


class Nobody:
    """A kubelet that shows no devices of other plugins."""

    async def others(self) -> dict[str, frozenset[str]]:
        return {}


def agent(trouble: Trouble) -> tuple[list[tuple[str, str]], Json]:
    """The Events that the agent records, and the NodeLayout with its report."""
    told: list[tuple[str, str]] = []

    def tell(_type: EventType, reason: str, message: str) -> None:
        told.append((reason, message))

    gpus = (trouble.gpu, OTHER)
    table = SliceTable(gpus)
    foreign = ForeignDevices(Nobody(), lambda: gpus)
    board = GpuBoard(gpus, foreign, table.put_gpus, tell, reserved_mib=256)
    if trouble.foreign:
        foreign.gpus = {SICK: trouble.foreign}
    board.put_pods(trouble.pods, frozenset(), frozenset())
    board.put_excluded(trouble.excluded)
    board.put_mps({SICK: trouble.mps})
    board.settle()
    applied = Condition(ConditionType.APPLIED, True, "Applied")
    ready = readiness(tuple(table.gpus.values()), board.nos.message)
    status = LayoutStatus(2, gpu_statuses(table, SETTINGS), (ready, applied))
    return told, {**layout("n1"), "status": status_to_json(status)}


def test_every_reason_of_a_gpu_is_followed_to_the_person() -> None:
    words = (
        value
        for name, value in vars(refusals).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    )
    of_refusals = {word for word in words if word in advice.NODES}
    of_mps = {client.MPS_DOWN, client.MPS_FAULT, client.MPS_WRONG_USER}
    of_health = {health.XID_ERROR, "ResetRequired", "Lost", DriverHangs.condition}
    assert {trouble.reason for trouble in TROUBLES} == of_refusals | of_mps | of_health


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.reason)
async def test_what_the_agent_sees_of_a_gpu_is_told_in_event_why_status_and_page(
    trouble: Trouble,
) -> None:
    told, reported = agent(trouble)
    assert told
    assert {reason for reason, _ in told} == {trouble.event}
    assert trouble.words in told[0][1]
    kube = FakeApi(cluster(nodes=[node("n1")], layouts=[reported]))
    observer = Observer(kube, LABEL, "", clock=lambda: NOW)
    answer = await ask(kube, observer, target("node/n1"), "default")
    lines = text_of(draw(answer, NOW))
    assert trouble.reason in lines
    assert advice.NODES[trouble.reason] in lines
    observed = await observer.look()
    decision = judged(observed)
    shown = text_of(draw_status(status_picture(observed, decision, ""), ASCII, None))
    assert trouble.reason in shown
    text = changes(None, page_picture(Seen(observed.layouts or {}, {}, decision), (), Picture()))
    assert text is not None
    row = json.loads(text)["nodes"]["n1"]["gpus"][0]
    assert row["problem"] == trouble.reason
