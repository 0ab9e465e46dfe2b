"""The cluster under test: a real control plane with an audit log, our programs, and the nodes.

Everything runs on this machine. The nodes are API objects, and their agents share one process.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.cluster.agents import Config
from hack.cluster import controlplane, lifecycle, programs
from hack.cluster.controlplane import ControlPlane
from hack.cluster.parts import Parts
from hack.cluster.processes import ProcessSpec, Program
from hack.cluster.progress import Say, step
from mpslice.kube.api import NODE_LAYOUTS, NODES, Json, PatchType
from mpslice.kube.reflector import Reflector
from mpslice.kube.session import Session

GPUS: Final = 8
GPU_GB: Final = 80
MEMORY_MIB: Final = GPU_GB * 10**9 // 2**20 + 1
BASELINE: Final = "benchmark.mpslice.io/unit"
"""An extended resource that each node has: what the scheduler alone binds pods by."""

_CPU, _MEMORY, _PODS = "128", "1Ti", "250"
_AT_ONCE = 16
_READY_SECONDS = 600.0

# All requests but health checks, once each: a watch when it begins, the others when they end.
_AUDIT_POLICY: Final[Json] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "None", "nonResourceURLs": ["*"]}, {"level": "Metadata"}],
}


@dataclass(frozen=True, slots=True)
class Stand:
    """What runs. `audit` is the API server's log of requests."""

    plane: ControlPlane
    core: programs.Core
    agents: Program
    nodes: tuple[str, ...]
    audit: Path
    refusals: Path

    @property
    def capacity_gb(self) -> int:
        return len(self.nodes) * GPUS * GPU_GB

    @property
    def components(self) -> dict[str, Program]:
        """By the names that the report gives them."""
        etcd, server, controllers, scheduler = self.plane.programs
        return {
            "etcd": etcd,
            "kube-apiserver": server,
            "controller-manager": controllers,
            "kube-scheduler": scheduler,
            "webhook": self.core.webhook,
            "planner": self.core.planner,
            "agents": self.agents,
        }


@contextmanager
def control_plane(parts: Parts, say: Say) -> Iterator[tuple[ControlPlane, Path]]:
    """A control plane of its own, ended with the block, and its audit log."""
    with lifecycle.owned(say) as cluster:
        policy, log = cluster.root / "audit-policy.json", cluster.root / "audit.log"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        flags = (
            f"--audit-policy-file={policy}",
            f"--audit-log-path={log}",
            "--audit-log-maxsize=100000",  # MB; one file
        )
        plane = controlplane.start(cluster, parts, say, apiserver_flags=flags)
        try:
            yield plane, log
        finally:
            for program in reversed(plane.programs):
                program.kill()  # nothing of it is kept


@asynccontextmanager
async def stand(parts: Parts, count: int, say: Say) -> AsyncIterator[tuple[Stand, Session]]:
    """mpslice on `count` nodes, all of them served, and a session as administrator."""
    with control_plane(parts, say) as (plane, audit):
        core = programs.install(plane, say)
        names = tuple(f"n{number:04}" for number in range(count))
        running = [core.webhook, core.planner]
        try:
            for program in running:
                program.start(wait=False)
            async with await Session.connect("bench", str(plane.kubeconfig)) as kube:
                with step(say, f"{count} nodes"):
                    await _each(names, lambda name: _add_node(kube, name))
                    agents, refusals = await _agents(plane, names)
                    agents.start(wait=False)
                    running.append(agents)
                    for program in (core.webhook, core.planner):
                        await asyncio.to_thread(program.wait_ready)
                    await asyncio.to_thread(programs.wait_until_gated, plane, core)
                    await _served(kube, names, agents)
                yield Stand(plane, core, agents, names, audit, refusals), kube
        finally:
            for program in reversed(running):
                program.kill()  # the webhook would serve on for ten seconds, to nobody


async def _each(names: tuple[str, ...], work: Any) -> None:
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> None:
        async with turn:
            await work(name)

    await asyncio.gather(*(one(name) for name in names))


async def _add_node(kube: Session, name: str) -> None:
    """A node that is ready, handed over, and has CPU and memory for what the trace asks for."""
    resources = {"cpu": _CPU, "memory": _MEMORY, "pods": _PODS, BASELINE: _PODS}
    conditions = [{"type": "Ready", "status": "True", "reason": "Benchmark"}]
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **programs.NODE_LABEL}
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": resources, "allocatable": resources, "conditions": conditions},
    }
    await kube.create(NODES, body)
    # Admission taints what is new, and the controllers take long to see that it is ready.
    await kube.patch(NODES, name, {"spec": {"taints": None}}, type=PatchType.MERGE)


async def _agents(plane: ControlPlane, names: tuple[str, ...]) -> tuple[Program, Path]:
    account = "mpslice-nodeagent"
    kubeconfigs: dict[str, str] = {}

    async def token(name: str) -> None:
        file = f"{account}-{name}"
        path = await asyncio.to_thread(programs.service_account, plane, account, name, file)
        kubeconfigs[name] = str(path)

    await _each(names, token)
    file = plane.cluster.config / "agents.json"
    report = plane.cluster.root / "agents-report.json"
    config = Config(kubeconfigs, str(plane.kubeconfig), GPUS, MEMORY_MIB, str(report))
    config.write(file)
    command = (sys.executable, "-m", "benchmarks.cluster.agents", str(file))
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    return Program(plane.cluster, ProcessSpec("agents", command, environment=environment)), report


async def _served(kube: Session, names: tuple[str, ...], agents: Program) -> None:
    """Until each agent has reported its GPUs."""

    def reported(layout: Json) -> bool | None:
        return bool((layout.get("status") or {}).get("gpus")) or None

    layouts = Reflector(kube, NODE_LAYOUTS, reported, lambda _: None)
    following = asyncio.create_task(layouts.run())
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while len(layouts.objects) < len(names):
                if not agents.running:
                    raise SystemExit(f"the agents ended: {agents.last_lines(20)}")
                await asyncio.sleep(0.2)
    finally:
        following.cancel()
        await asyncio.wait({following})
