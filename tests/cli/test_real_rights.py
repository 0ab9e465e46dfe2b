"""`status`, `why` and `top` on a real control plane, as an administrator and with little rights.

The planner is real and the agents are simulated. People are a service account with the role `view`
in one namespace, and a user with `view` in all: Kubernetes' own role with what the chart adds.
"""

import asyncio
import json
import logging
import os
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from prometheus_client import generate_latest

from hack.cluster import controlplane, lifecycle, pki
from hack.cluster.controlplane import ControlPlane
from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from mpslice.kube.api import NODES, PODS, Json, PatchType
from mpslice.kube.session import Session
from nodeagent.gpus.memory import PodMemory
from nodeagent.metrics import Metrics
from tests.chart import render
from tests.docs.blocks import Command, commands
from tests.planner.agents import add_node
from tests.planner.conftest import planning
from tests.planner.pods import slice_pod
from tests.waiting import DEADLINE, eventually

# One cluster, planner and event loop for all of them: they only look.
pytestmark = pytest.mark.asyncio(loop_scope="module")

log = logging.getLogger(__name__)

TEAM = "team-a"
ACCOUNT = f"system:serviceaccount:{TEAM}:viewer"
RELEASE = "mpslice-system"
TEMPLATES = ("crd", "view-role")
CHECKOUT = Path(__file__).parents[2]
HOLDERS = {"notebook": 30, "train": 60}


@pytest.fixture(scope="module")
def plane(cluster_parts: Parts, cluster_say: Say) -> Iterator[ControlPlane]:
    """A control plane with the NodeLayout kind, the chart's role, and two people."""
    with lifecycle.owned(cluster_say) as cluster:
        found = controlplane.start(cluster, cluster_parts, cluster_say)
        only = (f"--show-only=templates/{name}.yaml" for name in TEMPLATES)
        for document in render(cluster_parts.helm, *only):
            found.kubectl("apply", "--filename=-", input=json.dumps(document))
        found.kubectl("wait", "--for=condition=Established", "crd/nodelayouts.mpslice.io")
        for namespace in (TEAM, "team-b", RELEASE):
            found.kubectl("create", "namespace", namespace)
        found.kubectl("create", "serviceaccount", "viewer", f"--namespace={TEAM}")
        bind = ("--clusterrole=view", f"--serviceaccount={TEAM}:viewer", f"--namespace={TEAM}")
        found.kubectl("create", "rolebinding", "viewer", *bind)
        found.kubectl("create", "clusterrolebinding", "jane", "--clusterrole=view", "--user=jane")
        yield found
    for program in found.programs:
        program.stop()


@pytest.fixture(scope="module")
def viewer(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig of the service account, whose context names its namespace."""
    token = plane.kubectl("create", "token", "viewer", f"--namespace={TEAM}").stdout.strip()
    path = tmp_path_factory.mktemp("viewer") / "config"
    authority = plane.pki.authority.pair.certificate
    pki.write_kubeconfig(path, plane.url, authority, {"token": token})
    plane.kubectl(
        "config", "set-context", "--current", f"--namespace={TEAM}", f"--kubeconfig={path}"
    )
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kube(plane: ControlPlane) -> AsyncIterator[Session]:
    async with await Session.connect("test", str(plane.kubeconfig)) as session:
        yield session


async def make(kube: Session, name: str, size: int, namespace: str = TEAM, **spec: Any) -> None:
    pod = slice_pod(name, size, **spec)
    pod["metadata"]["namespace"] = namespace
    await kube.create(PODS, pod, namespace=namespace)


async def is_told(kube: Session, name: str) -> bool:
    pod = await kube.read(PODS, name, namespace=TEAM)
    conditions = pod["status"].get("conditions") or ()
    return any(each["type"] == "mpslice.io/SliceAvailable" for each in conditions)


async def is_bound(kube: Session, name: str) -> bool:
    pod = await kube.read(PODS, name, namespace=TEAM)
    return bool(pod["spec"].get("nodeName"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def busy(kube: Session) -> AsyncIterator[Session]:
    """Two nodes, one of them tainted, a GPU with 90gb of 100gb used, and two pods that wait."""
    await add_node(kube, "n1")
    await add_node(kube, "n2")
    tainted = {"spec": {"taints": [{"key": "dedicated", "value": "b", "effect": "NoSchedule"}]}}
    await kube.patch(NODES, "n2", tainted, type=PatchType.MERGE)
    over = asyncio.Event()

    async def plan() -> None:
        async with planning(kube, {"n1": [100], "n2": [100]}):
            await over.wait()

    work = asyncio.create_task(plan())
    for name, size in HOLDERS.items():
        await make(kube, name, size)
        await eventually(partial(is_bound, kube, name), f"{name} is bound")
    await make(kube, "llm", 40)
    await make(kube, "eval", 90, "team-b")
    await eventually(partial(is_told, kube, "llm"), "the planner tells why it waits")
    yield kube
    over.set()
    await work


async def run(kubeconfig: Path, *arguments: str, status: int | None = 0) -> str:
    """What the program prints, in a pipe; it has to end with the status, None for 0 or 1."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.main",
        *arguments,
        f"--kubeconfig={kubeconfig}",
        cwd=CHECKOUT,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode in ((0, 1) if status is None else (status,)), (
        out.decode(),
        error.decode(),
    )
    return out.decode() + error.decode()


def part(text: str, title: str) -> list[str]:
    return text.partition(f"{title}\n")[2].partition("\n\n")[0].splitlines()


async def test_administrator_sees_gpus_pools_namespaces_and_why_pods_wait(
    busy: Session, plane: ControlPlane
) -> None:
    text = await run(plane.kubeconfig, "status")
    assert any("n1 GPU 0" in row and "30gb used, 60gb used" in row for row in part(text, "GPUs"))
    assert part(text, "Namespaces")[1].split() == [TEAM, "2", "90gb", "1", "40gb"]
    (first, second) = part(text, "Waiting")
    assert first.split()[:3] == ["#1", f"{TEAM}/llm", "40gb"]
    assert "1 GPUMemory (largest hole 10gb on n1 GPU 0), 1 Taint (dedicated=b:NoSchedule)" in first
    assert second.split()[:3] == ["#2", "team-b/eval", "90gb"]
    assert "you may not" not in text


async def test_administrator_is_told_node_by_node_and_each_remedy_works(
    busy: Session, plane: ControlPlane
) -> None:
    text = await run(plane.kubeconfig, "why", "llm", f"--namespace={TEAM}", status=1)
    assert part(text, "Nodes (2)") == [
        "  n1  GPUMemory  largest hole 10gb on GPU 0",
        "  n2  Taint      dedicated=b:NoSchedule",
    ]
    assert part(text, "Queue") == ["  first of the pods that wait, before 1 more"]
    helps = part(text, "What would help")
    assert "  - a slice of 10gb instead of 40gb has a place now on n1" in helps
    assert f"  - the end of {TEAM}/notebook (30gb on n1 GPU 0, priority 0)" in helps
    assert "condition PodScheduled" in text
    assert text.count("largest hole 10gb on n1 GPU 0), 1 Taint") == 2  # summary, condition

    await make(busy, "ten", 10)
    await eventually(partial(is_bound, busy, "ten"), "a slice of 10gb has a place")
    await busy.delete(PODS, "ten", namespace=TEAM, grace_seconds=0)
    (written,) = [row.strip() for row in helps if "tolerations:" in row]
    key, value = "dedicated", "b"
    assert written == (
        f"tolerations: [{{key: {key}, operator: Equal, value: {value}, effect: NoSchedule}}]"
    )
    tolerant = {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
    await make(busy, "tolerant", 40, tolerations=[tolerant])
    await eventually(partial(is_bound, busy, "tolerant"), "the toleration lets it in")
    well = await run(plane.kubeconfig, "why", "tolerant", f"--namespace={TEAM}")
    assert "it has its slice: 40gb on n2 GPU 0" in well
    await busy.delete(PODS, "tolerant", namespace=TEAM, grace_seconds=0)


async def test_rights_of_a_namespace_give_what_the_planner_told_and_the_way_to_more(
    busy: Session, plane: ControlPlane, viewer: Path
) -> None:
    text = await run(viewer, "why", "llm", status=1)
    assert text.startswith(f"Pod {TEAM}/llm: GPUMemory: 40gb: 0 of 2 nodes: 1 GPUMemory")
    assert "in the queue: first" in text
    status = await run(viewer, "status", "--namespace", TEAM)
    assert part(status, "Pods with slices") == [
        f"  {TEAM}/notebook  30gb  n1",
        f"  {TEAM}/train     60gb  n1",
    ]
    assert f"{TEAM}/llm  40gb  0 of 2 nodes: 1 GPUMemory" in status
    assert "team-b" not in status
    assert "GPUs\n" not in status
    sentence = (
        "you may not list nodelayouts.mpslice.io, namespaces, nodes or pods in all namespaces: "
    )
    named = {row.split(":")[0] for row in status.splitlines() if row.startswith("you may not")}
    assert {*next(iter(named)).replace(",", "").split()} == {
        *sentence.partition(":")[0].replace(",", "").split()
    }

    grants = [row.strip() for row in status.splitlines() if row.startswith("  kubectl create")]
    assert len(grants) == 2
    try:
        for command in grants:
            plane.kubectl(*shlex.split(command)[1:])

        async def granted() -> bool:
            return "n1 GPU 0" in await run(viewer, "status")

        await eventually(granted, "the commands grant what was missing")
        judged = await run(viewer, "why", "llm", status=1)
        assert "the end of team-a/notebook" in judged
        assert "you may not" not in judged
    finally:
        for command in grants:
            _, kind, name = shlex.split(command)[1:4]
            plane.kubectl("delete", kind, name)


async def test_role_view_of_the_chart_shows_layouts_to_whom_it_is_bound(
    busy: Session, plane: ControlPlane
) -> None:
    """`view` in all namespaces lists pods and NodeLayouts, and no nodes."""
    text = await run(plane.kubeconfig, "status", "--as=jane")
    assert "n1 GPU 0" in text
    assert f"{TEAM}/train" in text
    assert "you may not list nodes: node pools and the state of nodes are not shown" in text
    assert "--resource=nodes" in text
    assert "--user=jane" in text
    nobody = await run(plane.kubeconfig, "why", "llm", "-n", TEAM, "--as=x", status=2)
    assert "you may not get pods in namespace team-a" in nobody


async def test_nodes_are_explained(busy: Session, plane: ControlPlane) -> None:

    async def says(*words: str, node: str) -> bool:
        text = await run(plane.kubeconfig, "why", node, status=None)
        return all(each in text for each in words)

    unused = ("NothingAsks: it is served with 100gb", "2 Taint")
    await eventually(partial(says, *unused, node="n2"), "what waits does not fit on n2")
    await run(plane.kubeconfig, "why", "n2", status=1)
    used = "Used: 2 slices hold 90gb of its 100gb"
    await eventually(partial(says, used, node="node/n1"), "n1 is used")
    await run(plane.kubeconfig, "why", "node/n1")


async def test_watch_in_a_pipe_prints_each_change(busy: Session, plane: ControlPlane) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.main",
        "status",
        "--watch",
        "--output=json",
        f"--kubeconfig={plane.kubeconfig}",
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 22,
    )
    assert process.stdout is not None
    stream = process.stdout

    async def until(waiting: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(json.loads(await stream.readline())["waiting"]) != waiting:
                pass

    try:
        await until(2)
        await make(busy, "third", 95)
        await until(3)
        await busy.delete(PODS, "third", namespace=TEAM, grace_seconds=0)
        await until(2)
    finally:
        process.kill()
        await process.wait()


@pytest_asyncio.fixture(loop_scope="module")
async def agent(busy: Session, plane: ControlPlane) -> AsyncIterator[None]:
    """A pod that answers as the agent of n1, which the API server reaches as it does webhooks."""
    metrics = Metrics("n1")
    metrics.watch_memory(
        lambda: [
            PodMemory(0, f"{TEAM}/train", "b", 1000, 57_000, 2000),
            PodMemory(0, f"{TEAM}/notebook", "s", 20_000, 28_500, 28_000),
        ]
    )

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry))

    application = web.Application()
    application.router.add_get("/metrics", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, plane.address, 0).start()
    port = runner.addresses[0][1]
    container = {
        "name": "nodeagent",
        "image": "none",
        "ports": [{"name": "ops", "containerPort": port}],
    }
    component = {"app.kubernetes.io/component": "nodeagent"}
    pod: Json = {
        "metadata": {"name": "agent", "labels": {"app.kubernetes.io/name": "mpslice", **component}},
        "spec": {
            "nodeName": "n1",
            "containers": [container],
            "automountServiceAccountToken": False,
        },
    }
    await busy.create(PODS, pod, namespace=RELEASE)
    status = {
        "status": {
            "phase": "Running",
            "podIP": plane.address,
            "podIPs": [{"ip": plane.address}],
        }
    }
    patch = partial(busy.patch, PODS, "agent", namespace=RELEASE, type=PatchType.MERGE)
    await patch(status, subresource="status")
    yield
    await busy.delete(PODS, "agent", namespace=RELEASE, grace_seconds=0)
    await runner.cleanup()


async def test_memory_is_read_from_agents_through_the_api_server(
    agent: None, plane: ControlPlane, viewer: Path
) -> None:
    text = await run(plane.kubeconfig, "top")
    rows = [row.split() for row in text.splitlines()]
    assert rows[1][:5] == [f"{TEAM}/train", "57000Mi", "1000Mi", "2000Mi", "55000Mi"]
    assert rows[2][:5] == [f"{TEAM}/notebook", "28500Mi", "20000Mi", "28000Mi", "500Mi"]
    assert rows[3][:4] == ["total", "85500Mi", "21000Mi", "30000Mi"]

    mine = await run(viewer, "top", f"--namespace={TEAM}")
    assert "get pods/proxy in namespace mpslice-system" in mine
    assert f"{TEAM}/train" in mine
    assert "2000Mi" not in mine
    grants = [row.strip() for row in mine.splitlines() if row.startswith("  kubectl create")]
    for command in grants:
        plane.kubectl(*shlex.split(command)[1:])

    async def granted() -> bool:
        return "2000Mi" in await run(viewer, "top", f"--namespace={TEAM}")

    await eventually(granted, "the commands grant what was missing")
    for command in grants:
        _, kind, name = shlex.split(command)[1:4]
        plane.kubectl("delete", kind, name, f"--namespace={RELEASE}")


async def shows_all(command: Command, plane: ControlPlane, arguments: list[str]) -> bool:
    """Whether the command prints all that its page shows; what it lacks is in the log."""
    output = await run(plane.kubeconfig, *arguments, status=None)
    if missing := command.missing(output):
        log.warning("lacks %s in %s", missing, output)
    return not missing


async def test_page_shows_what_the_commands_print(agent: None, plane: ControlPlane) -> None:
    for command in commands("why.md"):
        program, name, *arguments = shlex.split(command.text)
        assert (program, name) == ("kubectl", "mpslice")
        shows = partial(shows_all, command, plane, arguments)
        await eventually(shows, f"{command.title} prints what the page shows")


async def test_pods_that_the_policy_refuses_are_explained_on_their_deployment(
    plane: ControlPlane, kube: Session, viewer: Path
) -> None:
    """The chart's ValidatingAdmissionPolicy refuses them, and the controller says it."""
    documents = render(plane.parts.helm, "--show-only=templates/webhook-policy.yaml")
    for document in documents:
        plane.kubectl("apply", "--filename=-", input=json.dumps(document))
    limits = {"nvidia.com/gpu-10gb": "2"}
    container = {"name": "main", "image": "none", "resources": {"limits": limits}}
    user = {"runAsUser": 1000}
    template = {
        "metadata": {"labels": {"app": "two"}},
        "spec": {"hostIPC": True, "securityContext": user, "containers": [container]},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "two", "namespace": TEAM},
        "spec": {"selector": {"matchLabels": {"app": "two"}}, "template": template},
    }
    try:

        async def refuses() -> bool:
            probe = {**template, "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}}
            said = plane.kubectl(
                "create",
                "--dry-run=server",
                f"--namespace={TEAM}",
                "--filename=-",
                input=json.dumps(probe),
                check=False,
            )
            return "MultipleSlices" in said.stderr

        await eventually(refuses, "the policy is in force", every=0.3)
        plane.kubectl("apply", "--filename=-", input=json.dumps(deployment))

        async def told() -> bool:
            return "REFUSED" in (await answer()).upper()

        async def answer() -> str:
            return await run(viewer, "why", "deployment/two", status=1)

        await eventually(told, "the refusal is seen")
        text = await answer()
        assert text.startswith(f"Deployment {TEAM}/two: MultipleSlices: its pods are refused: ")
        assert "ask for nvidia.com/gpu-20gb: 1 instead" in text
        assert "0 of 1 pods are there" in text
    finally:
        plane.kubectl("delete", "deployment", "two", f"--namespace={TEAM}", "--ignore-not-found")
        for document in documents:
            plane.kubectl("delete", "--filename=-", input=json.dumps(document))
