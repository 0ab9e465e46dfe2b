"""What faults happen to: a real control plane, our programs as processes, and nodes with kubelets.

One node's GPUs and MPS are simulated, the other's slices are enforced by NVIDIA's control program.
Two planners elect a leader. Our programs speak to the API server through the proxy; scheduler,
controllers, kubelets and the checker do not.
"""

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from benchmarks.cluster.kubelets import Kubelets
from hack.cluster import controlplane as planes
from hack.cluster import lifecycle, network, programs
from hack.cluster.controlplane import ControlPlane
from hack.cluster.errors import ClusterError
from hack.cluster.parts import Parts
from hack.cluster.processes import Program
from hack.cluster.progress import Say
from mpslice.kube.api import LEASES, NODE_LAYOUTS, NODES, Json, PatchType, Resource, list_all
from mpslice.kube.errors import Conflict, KubeError
from mpslice.kube.session import Session
from planner.service import LEASE
from tests.faults import clocks
from tests.faults.clocks import WallClock
from tests.faults.kubelet import Kubelet
from tests.faults.proxy import Proxy
from tests.faults.supervised import Supervised, supervised
from tests.nodeagent.fake_kubelet import fake_kubelet
from tests.planner.agents import node_manifest, node_status
from tests.waiting import eventually

NODES_GPUS: Final = {"n0": (80, 40), "n1": (40,)}
"""The gb of each GPU of each node."""

_SUPERVISED: Final = "n1"

DEFINITIONS: Final = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
CRD: Final = "nodelayouts.mpslice.io"
_ACCOUNT: Final = "mpslice-nodeagent"
_DISK_KIB: Final = 64


@dataclass(slots=True)
class NodeParts:
    """A node: its agent and kubelet, the file of its GPUs, the disk that the agent writes to.

    `mps` is None where GPUs and MPS are simulated; elsewhere nothing reads the file.
    """

    name: str
    agent: Program
    kubelet: Kubelet
    gpus: Path
    disk: Path
    mps: Supervised | None = None

    def write_gpus(self, *, first: str = "well") -> None:
        """The first GPU is well, sick or lost."""
        entries = [
            {"uuid": uuid_of(self.name, n), "memoryMiB": -(-gb * 10**9 // 2**20)}
            for n, gb in enumerate(NODES_GPUS[self.name])
        ]
        if first == "sick":
            entries[0]["healthy"] = False
        kept = entries[1:] if first == "lost" else entries
        draft = self.gpus.with_suffix(".draft")
        draft.write_text(yaml.safe_dump({"gpus": kept}))
        draft.rename(self.gpus)


def uuid_of(node: str, number: int) -> str:
    return f"GPU-{node}-{number}"


@dataclass(slots=True)
class Stand:
    """All that runs. `problems` are broken invariants, told by whoever sees one."""

    plane: ControlPlane
    kube: Session
    proxy: Proxy
    webhook: Program
    planners: tuple[Program, ...]
    nodes: tuple[NodeParts, ...] = ()
    problems: list[str] = field(default_factory=list)
    paused: dict[int, Program] = field(default_factory=dict)
    """Leaders that do not run on, by the fault's target."""
    definition: Json = field(default_factory=dict)
    """The CRD as the chart has it, with what the API server made of it."""
    clocks: dict[str, WallClock] = field(default_factory=dict)
    """Of our programs, by their names."""
    daemons: dict[str, frozenset[int]] = field(default_factory=dict)
    """Those of MPS that are not to end, by the name of their first process."""

    def problem(self, text: str) -> None:
        self.problems.append(text)

    @property
    def etcd(self) -> Program:
        return self.plane.programs[0]

    @property
    def apiserver(self) -> Program:
        return self.plane.programs[1]

    @property
    def ours(self) -> tuple[Program, ...]:
        agents = (node.agent for node in self.nodes)
        return (self.webhook, *self.planners, *agents, *(mps.program for mps in self.supervised))

    @property
    def supervised(self) -> tuple[Supervised, ...]:
        """MPS on the nodes where it is not simulated."""
        return tuple(node.mps for node in self.nodes if node.mps is not None)

    def give_clock(self, program: Program, library: Path) -> None:
        """A wall clock of its own, for a program that does not run yet."""
        clock = self.clocks[program.name] = WallClock(library, self.plane.dir / program.name)
        environment = {**program.spec.environment, **clock.environment}
        program.spec = replace(program.spec, environment=environment)

    async def leader(self) -> Program:
        """The planner that holds the lease, the first one where nobody does."""
        try:
            lease = await self.kube.read(LEASES, LEASE, namespace=programs.NAMESPACE)
        except KubeError:
            return self.planners[0]
        holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
        running = [each for each in self.planners if each.running]
        return next((p for p in running if holder.endswith(f"_{p.pid}")), self.planners[0])

    async def add_node(self, name: str) -> None:
        """Registers it as a kubelet would, with the label that hands it over."""

        async def added() -> bool:
            try:
                try:
                    await self.kube.create(NODES, node_manifest(name))
                except Conflict:
                    pass  # an answer was lost
                status = node_status()
                await self.kube.patch(
                    NODES, name, status, type=PatchType.MERGE, subresource="status"
                )
                untainted = {"spec": {"taints": None}}
                await self.kube.patch(NODES, name, untainted, type=PatchType.MERGE)
            except KubeError:
                return False
            return True

        await eventually(added, f"node {name} is there", every=0.2)

    async def renew_token(self, name: str) -> None:
        """A token is of one Node object: a new one needs another token."""
        path = await asyncio.to_thread(
            programs.service_account, self.plane, _ACCOUNT, name, part_of(name)
        )
        self.lead_through_proxy(path)

    def lead_through_proxy(self, kubeconfig: Path) -> None:
        draft = kubeconfig.with_suffix(".draft")
        draft.write_text(kubeconfig.read_text().replace(self.plane.url, self.proxy.url))
        draft.chmod(0o600)
        draft.rename(kubeconfig)


def part_of(node: str) -> str:
    """The agent's name among the cluster's processes."""
    return f"{_ACCOUNT}-{node}"


async def start_again(program: Program) -> None:
    """Whatever has become of it, it runs and is ready. One that ends is started again, as a kubelet
    would: an agent's node may be deleted just now."""

    async def is_ready() -> bool:
        if not program.running:
            program.start(wait=False)
        try:
            await asyncio.to_thread(program.wait_ready)
        except ClusterError:
            if program.running:
                raise
        return program.running

    await eventually(is_ready, f"{program.name} is ready", every=0.5)


def send(program: Program, number: signal.Signals) -> None:
    """Nothing where it has ended."""
    if program.running:
        os.kill(program.pid, number)


@asynccontextmanager
async def stand(parts: Parts, say: Say, dice: random.Random) -> AsyncIterator[Stand]:
    """Everything runs and serves while inside; of it nothing is kept."""
    with lifecycle.owned(say) as cluster:
        plane = await asyncio.to_thread(planes.start, cluster, parts, say)
        running = list(plane.programs)
        try:
            async with (
                await Session.connect("faults", str(plane.kubeconfig)) as kube,
                _proxy(plane, dice) as proxy,
            ):
                core = await asyncio.to_thread(programs.install, plane, say)
                second = await asyncio.to_thread(_second_planner, plane)
                here = Stand(plane, kube, proxy, core.webhook, (core.planner, second))
                running += (core.webhook, *here.planners)
                library = await asyncio.to_thread(clocks.build, plane.dir)
                for program in here.ours:
                    here.give_clock(program, library)
                    here.lead_through_proxy(cluster.component_kubeconfig(program.name))
                    program.start(wait=False)
                here.definition = await kube.read(DEFINITIONS, CRD)
                async with _nodes(here, library), asyncio.TaskGroup() as tasks:
                    running += [*(node.agent for node in here.nodes)]
                    running += [mps.program for mps in here.supervised]
                    following = [tasks.create_task(work) for work in _kubelets(here)]
                    for program in here.ours:
                        await start_again(program)
                    await asyncio.to_thread(programs.wait_until_gated, plane, core)
                    await eventually(partial(_served, here), "the nodes are served", every=0.2)
                    yield here
                    for task in following:
                        task.cancel()
        finally:
            for program in running:
                program.kill()


@asynccontextmanager
async def _proxy(plane: ControlPlane, dice: random.Random) -> AsyncIterator[Proxy]:
    proxy = Proxy(plane, dice)
    async with proxy.serve():
        yield proxy


def _second_planner(plane: ControlPlane) -> Program:
    (port,) = network.free_ports(1)
    return programs.program_of(plane, "planner", port, part="mpslice-planner-2")


@asynccontextmanager
async def _nodes(here: Stand, library: Path) -> AsyncIterator[None]:
    """The nodes and their kubelets; the agents do not run yet."""
    async with AsyncExitStack() as kubelets:
        for number, (name, gpus) in enumerate(NODES_GPUS.items()):
            folder, disk = (here.plane.dir / f"{part}{number}" for part in "kd")
            folder.mkdir()
            fake = await kubelets.enter_async_context(fake_kubelet(folder))
            capacities = {uuid_of(name, n): gb for n, gb in enumerate(gpus)}
            kubelet = Kubelet(name, fake, capacities, here.kube, here.problem)
            await here.add_node(name)
            await asyncio.to_thread(_mount, disk)
            agent = await asyncio.to_thread(_agent, here, name, folder, disk)
            here.give_clock(agent, library)
            here.lead_through_proxy(here.plane.cluster.component_kubeconfig(agent.name))
            node = NodeParts(name, agent, kubelet, folder / "gpus.yaml", disk)
            node.write_gpus()
            if name == _SUPERVISED:
                await asyncio.to_thread(_supervise, here, node, capacities, kubelets)
            here.nodes = (*here.nodes, node)
        try:
            yield
        finally:
            for node in here.nodes:
                node.agent.kill()  # it writes where MPS is taken away


def _mount(disk: Path) -> None:
    """A disk of its own, which can be full; it is unmounted with the cluster."""
    disk.mkdir()
    size = f"size={_DISK_KIB}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], check=True, timeout=60)


def _agent(here: Stand, name: str, folder: Path, disk: Path) -> Program:
    (port,) = network.free_ports(1)
    return programs.program_of(
        here.plane,
        "nodeagent",
        port,
        f"--node-name={name}",
        f"--device-plugin-dir={folder / 'dp'}",
        f"--pod-resources-socket={folder / 'podres.sock'}",
        f"--simulated-gpus={folder / 'gpus.yaml'}",
        f"--mps-root={folder.with_name(f'm{folder.name}')}",  # its sockets' paths are long
        f"--cdi-dir={disk}",
        node=name,
        part=part_of(name),
    )


def _supervise(
    here: Stand, node: NodeParts, capacities: dict[str, int], until: AsyncExitStack
) -> None:
    """NVIDIA's control program instead of simulated GPUs and MPS."""
    first, *flags = node.agent.spec.command
    beginning = supervised(here.plane.cluster, node.name, capacities, first)
    node.mps = mps = until.enter_context(beginning)
    others = ("--simulated-gpus", "--mps-root")
    kept = [flag for flag in flags if not flag.startswith(others)]
    environment = {**node.agent.spec.environment, **mps.environment}
    command = (first, *kept, f"--mps-root={mps.root.root}")
    node.agent.spec = replace(node.agent.spec, command=command, environment=environment)


def _kubelets(here: Stand) -> list[Coroutine[Any, Any, NoReturn]]:
    by_name = {node.name: node.kubelet for node in here.nodes}
    pods = Kubelets(here.kube, by_name).run()
    return [pods, *(kubelet.run() for kubelet in by_name.values())]


async def _served(here: Stand) -> bool:
    layouts = await list_all(here.kube, NODE_LAYOUTS)
    gpus = [gpu for each in layouts for gpu in (each.get("status") or {}).get("gpus") or ()]
    healthy = [gpu for gpu in gpus if gpu["healthy"]]
    return len(healthy) == sum(map(len, NODES_GPUS.values()))
