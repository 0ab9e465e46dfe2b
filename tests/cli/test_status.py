"""`kubectl mpslice status`: what is shown with all rights or few, at any size, on every change."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from cli.observe import Observer, judged
from cli.status.draw import draw
from cli.status.picture import Picture, picture
from cli.status.report import report
from cli.status.show import show
from cli.terminal import ASCII, Terminal, text_of
from mpslice.kube.api import NODES, PODS, Json, Query, Resource
from mpslice.kube.errors import Unreachable
from planner.model.pods import GATE
from tests.cli.fake_api import ALL, FakeApi, Grant, cluster, view
from tests.cli.objects import LABEL, available, gpu, layout, node, pod
from tests.cli.test_terminal import Tty
from tests.waiting import DEADLINE, eventually

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LAYOUTS = Grant("nodelayouts")

OBJECTS = cluster(
    nodes=[
        node("n1", labels={"cloud.google.com/gke-nodepool": "a100"}),
        node("n2", labels={"cloud.google.com/gke-nodepool": "a100"}, cordoned=True),
        node("n10"),
    ],
    layouts=[
        layout("n1", gpu("n1", 0, 80, (40, "team-a/x"), (20, "team-b/y"), (10, ""))),
        layout("n2", gpu("n2", 0, 80, reason="XidError"), gpu("n2", 1, 80)),
        layout("n10", ready=("DriverNotLoaded", "no driver")),
    ],
    pods=[
        pod("x", 40, on="n1"),
        pod("y", 20, namespace="team-b", on="n1"),
        pod("waits", 60, gates=[GATE]),
        pod("gated", 10, namespace="team-b", gates=["example.com/quota"]),
        pod("plain"),
    ],
)


async def seen(kube: FakeApi, namespace: str = "") -> Picture:
    observer = Observer(kube, LABEL, namespace or "team-a", clock=lambda: NOW)
    observed = await observer.look()
    return picture(observed, judged(observed), namespace)


async def shown(kube: FakeApi, namespace: str = "", **options: Any) -> str:
    return text_of(draw(await seen(kube, namespace), ASCII, **options))


def part(text: str, title: str) -> list[str]:
    return text.partition(f"{title}\n")[2].partition("\n\n")[0].splitlines()


async def test_every_part_says_what_stands_in_the_cluster() -> None:
    text = await shown(FakeApi(OBJECTS))
    assert part(text, "GPUs") == [
        "  n1 GPU 0  80gb  |#######|###############|===....  20gb used, 40gb used, 10gb free",
        "  n2 GPU 0  80gb  ................................  XidError",
        "  n2 GPU 1  80gb  ................................  uncarved",
        "  # used  = free slice  . uncarved",
    ]
    assert part(text, "Not served") == [
        "  n2        cordoned",
        "  n2 GPU 0  XidError",
        "  n10       DriverNotLoaded: no driver",
    ]
    assert part(text, "Node pools") == [
        "  POOL         NODES  GPUS  CAPACITY  USED  FREE  UNCARVED",
        "  a100             2     3     160gb  60gb  10gb      90gb",
        "  no GPU seen      1     0       0gb   0gb   0gb       0gb",
        "  all              3     3     160gb  60gb  10gb      90gb",
    ]
    assert part(text, "Namespaces") == [
        "  NAMESPACE  PODS  HELD  WAITING  WAITED FOR",
        "  team-a        1  40gb        1        60gb",
        "  team-b        1  20gb        1        10gb",
    ]
    assert part(text, "Pods with slices") == [
        "  team-a/x  40gb  n1 GPU 0",
        "  team-b/y  20gb  n1 GPU 0",
    ]
    assert part(text, "Waiting") == [
        (
            "  #1  team-a/waits  60gb  0 of 3 nodes: 1 GPUMemory (largest hole 20gb on n1 GPU 0), "
            "1 Unschedulable, 1 NotReady"
        ),
        "      team-b/gated  10gb  waits for the scheduling gate example.com/quota",
    ]


async def test_slices_of_a_gpu_are_shown_by_size_and_holder_whichever_each_pod_got() -> None:
    taken = gpu("n1", 0, 80, (10, ""), (20, "a/p10"), (10, "a/z"), (20, "a/p2"))
    found = await seen(FakeApi(cluster(nodes=[node("n1")], layouts=[layout("n1", taken)])))
    assert found.nodes is not None
    (row,) = found.nodes[0].gpus
    assert [each.pod for each in row.slices] == ["a/z", "a/p2", "a/p10", ""]


async def test_namespace_shows_its_pods_alone_and_all_gpus() -> None:
    text = await shown(FakeApi(OBJECTS), "team-b")
    assert part(text, "Pods with slices") == ["  team-b/y  20gb  n1 GPU 0"]
    assert "team-a" not in text
    assert "n2 GPU 1" in text
    assert "of this namespace" in text
    assert "|+++++++|####" in text  # told from the others' without colours


async def test_namespace_without_slice_pods_says_so() -> None:
    text = await shown(FakeApi(OBJECTS), "nowhere")
    assert "no pod asks for a slice in namespace nowhere" in text


async def test_rights_of_a_namespace_show_its_pods_and_what_the_planner_told() -> None:
    told = pod("p", 40, conditions=[available("GPUMemory", "40gb: 0 of 1 nodes: 1 GPUMemory")])
    found = await seen(FakeApi([*OBJECTS, (PODS, told)], view("team-a")))
    assert found.nodes is None
    assert (found.judged, found.namespace) == (False, "team-a")
    text = text_of(draw(found, ASCII))
    assert part(text, "Pods with slices") == ["  team-a/x  40gb  n1"]
    assert part(text, "Waiting")[0] == "  team-a/p      40gb  0 of 1 nodes: 1 GPUMemory"
    assert "GPUs" not in text
    rights = {str(each.right) for each in found.lacking}
    assert rights == {
        "list nodelayouts.mpslice.io",
        "list nodes",
        "list namespaces",
        "list pods in all namespaces",
    }


async def test_layouts_alone_are_shown_without_the_state_of_nodes() -> None:
    found = await seen(FakeApi(OBJECTS, [*view("team-a"), LAYOUTS]))
    assert found.nodes is not None
    assert [row.name for row in found.nodes] == ["n1", "n2", "n10"]
    text = text_of(draw(found, ASCII))
    assert part(text, "Node pools")[1].startswith("  NVIDIA A100")
    assert "cordoned" not in text


async def test_missing_right_is_named_with_the_command_that_grants_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    observer = Observer(FakeApi(OBJECTS, view("team-a")), LABEL, "team-a", clock=lambda: NOW)
    stream = io.StringIO()
    await show(observer, Terminal(stream), "table", "", watch=False)
    text = stream.getvalue()
    assert (
        "you may not list namespaces, nodelayouts.mpslice.io, nodes or pods in all namespaces: "
        "GPUs and their slices are not shown, node pools and the state of nodes are not shown, "
        "pods of other namespaces are not shown, the reasons are those that the planner last "
        "wrote\n"
    ) in text
    assert "  kubectl create clusterrolebinding mpslice-sees-" in text
    assert "--user=jane" in text


def many(nodes: int, gpus: int) -> FakeApi:
    names = [f"n{number}" for number in range(nodes)]
    layouts = [layout(n, *(gpu(n, i, 80, (40, "team-a/x")) for i in range(gpus))) for n in names]
    return FakeApi(cluster(nodes=map(node, names), layouts=layouts))


@pytest.mark.parametrize(("nodes", "gpus", "lines"), [(6, 8, 49), (40, 8, 42), (1000, 1, 3)])
async def test_detail_shrinks_with_the_number_of_gpus_and_wide_shows_all(
    nodes: int, gpus: int, lines: int
) -> None:
    kube = many(nodes, gpus)
    assert len(part(await shown(kube), "GPUs")) == lines
    assert len(part(await shown(kube, wide=True), "GPUs")) == nodes * gpus + 1


async def test_pods_that_nobody_would_read_are_counted() -> None:
    used = [layout("n1", gpu("n1", 0, 80, *[(1, f"team-a/s{n}") for n in range(45)]))]
    pods = [*(pod(f"s{n}", 1, on="n1") for n in range(45)), *(pod(f"w{n}", 1) for n in range(11))]
    used.append(layout("n2", gpu("n2", 0, 80)))
    kube = FakeApi(cluster(nodes=[node("n1"), node("n2")], layouts=used, pods=pods))
    text = await shown(kube)
    assert part(text, "Pods with slices") == ["  45 pods: -o wide or -n NAMESPACE lists them"]
    assert part(text, "Waiting") == [
        "  11 pods are on their way to their slices: -o wide or -n NAMESPACE lists them"
    ]
    wide = await shown(kube, wide=True)
    assert len(part(wide, "Pods with slices")) == 45
    assert len(part(wide, "Waiting")) == 11


async def test_replicas_that_wait_for_the_same_share_a_row() -> None:
    pods = [pod(f"r-{number}", 90) for number in range(12)]
    objects = cluster(nodes=[node("n1")], layouts=[layout("n1", gpu("n1", 0, 80))], pods=pods)
    (row,) = part(await shown(FakeApi(objects)), "Waiting")
    assert row.startswith(
        "  #1  team-a/r-0, team-a/r-1, team-a/r-10 and 9 more  90gb  0 of 1 nodes"
    )
    assert len(part(await shown(FakeApi(objects), wide=True), "Waiting")) == 12


async def test_names_of_253_characters_and_escapes_stay_on_their_line() -> None:
    long = "a" * 253
    evil = pod("p", 40, conditions=[available("GPUMemory", "\x1b[2Jno\nroom\r")])
    objects = cluster(layouts=[layout(long, gpu(long, 0, 80, (10, f"{long}/{long}")))], pods=[evil])
    text = await shown(FakeApi(objects, [*view("team-a"), LAYOUTS]))
    assert f"  {long}/{long}  10gb  {long} GPU 0" in text.splitlines()
    assert "\\x1b[2Jno room\\r" in text
    assert "\x1b" not in text


async def test_empty_cluster_says_that_nothing_is_there() -> None:
    text = await shown(FakeApi())
    assert "no node is labelled nos.nebuly.com/gpu-partitioning=mps" in text
    assert (await shown(FakeApi((), view("team-a")))).strip() == (
        "no pod asks for a slice in namespace team-a"
    )


async def test_cluster_without_mpslice_is_told_from_one_without_nodes() -> None:
    with pytest.raises(Exception, match="install mpslice's chart there first"):
        await seen(FakeApi(unknown=["nodelayouts"]))


async def test_json_has_what_is_drawn() -> None:
    said: Any = json.loads(json.dumps(report(await seen(FakeApi(OBJECTS)))))
    assert said["total"] == {
        "name": "all",
        "nodes": 3,
        "gpus": 3,
        "capacityGB": 160,
        "usedGB": 60,
        "freeGB": 10,
        "uncarvedGB": 90,
    }
    assert said["nodes"][0]["gpus"][0]["slices"][0] == {
        "size": "20gb",
        "state": "Used",
        "pod": "team-b/y",
        "container": "main",
    }
    assert said["waiting"][0]["reason"] == "GPUMemory"
    assert said["missingRights"] == {"rights": [], "commands": []}
    restricted = report(await seen(FakeApi(OBJECTS, view("team-a"))))
    assert restricted["nodes"] is None
    assert "list nodes" in restricted["missingRights"]["rights"]


async def test_screen_is_drawn_over_tells_of_trouble_and_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "60")

    class Failing(FakeApi):
        down = False

        async def watch(
            self, resource: Resource, *, namespace: str | None = None, query: Query
        ) -> AsyncIterator[Json]:
            self.fail_if_down()  # the first frame is there before the watches are
            async for told in super().watch(resource, namespace=namespace, query=query):
                self.fail_if_down()
                yield told

        def fail_if_down(self) -> None:
            if self.down:
                raise Unreachable("WATCH /api/v1/pods: connection refused")

    kube, stream = Failing(OBJECTS), Tty()
    terminal = Terminal.of(stream, {"TERM": "xterm"})
    task = asyncio.create_task(show(Observer(kube, LABEL, ""), terminal, "table", "", watch=True))

    def drawn(text: str) -> Callable[[], Awaitable[bool]]:
        async def is_drawn() -> bool:
            return text in stream.getvalue()

        return is_drawn

    await eventually(drawn("team-a/waits"), "the first frame")
    kube.down = True
    kube.put(PODS, pod("another", 10))
    await eventually(drawn("the cluster could not be watched at "), "the trouble")
    assert "WATCH /api/v1/pods: connection refused" in stream.getvalue()
    task.cancel()
    await asyncio.wait({task})
    text = stream.getvalue()
    frames = text.split("\x1b[?2026h")
    assert frames[0] == "\x1b[?1049h\x1b[?25l"
    assert all("\x1b[?2026l" in frame for frame in frames[1:])
    assert "\x1b[2J" not in text
    assert text.endswith("\x1b[?25h\x1b[?1049l")


async def test_watch_ends_without_a_further_word_when_its_reader_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            if self.tell():  # the second picture
                raise BrokenPipeError
            return super().write(text)

    observer = Observer(FakeApi(OBJECTS), LABEL, "")
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(show(observer, Terminal(Gone()), "table", "", watch=True), DEADLINE)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert caplog.records == []


@pytest.mark.parametrize("grants", [ALL, view("team-a")], ids=["all", "view"])
async def test_watch_shows_each_change(grants: Iterable[Grant]) -> None:
    kube = FakeApi(OBJECTS, grants)
    stream = io.StringIO()
    observer = Observer(kube, LABEL, "team-a")
    terminal = Terminal(stream)
    task = asyncio.create_task(show(observer, terminal, "json", "team-a", watch=True))

    def last(pods: int) -> Any:
        async def so_many() -> bool:
            lines = stream.getvalue().splitlines()
            return bool(lines) and len(json.loads(lines[-1])["waiting"]) == pods

        return so_many

    await eventually(last(1), "the first picture")
    kube.put(PODS, pod("another", 10, gates=["example.com/x"]))
    await eventually(last(2), "a pod that came")
    kube.remove(PODS, "another", "team-a")
    await eventually(last(1), "a pod that went")
    kube.put(NODES, node("n11"))
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
