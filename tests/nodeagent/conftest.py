"""A machine for the agent: simulated GPUs, a fake kubelet and an API server in memory."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpslice.gpus import GpuUuid
from mpslice.kube.api import EVENTS, NODE_LAYOUTS, NODES, PODS, Json
from nodeagent import controller
from nodeagent.agent import run_agent
from nodeagent.controller import Controller
from nodeagent.errors import DriverHangs
from nodeagent.hardware import ComputeCapability, GpuProcess, Gpus, MpsControl
from nodeagent.settings import Settings
from nodeagent.simulation import SimulatedGpus, SimulatedMps
from tests.nodeagent.fake_kube import FakeKube
from tests.nodeagent.fake_kubelet import FakeKubelet, fake_kubelet
from tests.waiting import DEADLINE, eventually

NODE = "n1"
GPU = "GPU-00000000-0000-0000-0000-00000000000{}"
AMPERE = ComputeCapability(8, 0)
A100 = {"product": "NVIDIA A100-SXM4-80GB", "memoryMiB": 81920, "reservedMiB": 626}


def gpu(number: int) -> str:
    """The UUID of the machine's GPU number 1 or 2."""
    return GPU.format(number)


def device(number: int, size: int, ordinal: int) -> str:
    """A device id on GPU number 1 or 2."""
    return f"{gpu(number)}::{size}::{ordinal}"


def resource(size: int) -> str:
    return f"nvidia.com/gpu-{size}gb"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's: they end at 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="na-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def kubelet(short_path: Path) -> AsyncIterator[FakeKubelet]:
    async with fake_kubelet(short_path) as kubelet:
        yield kubelet


async def _die(_controller: Controller) -> None:
    """What a killed agent says."""


class Machine:
    """What a test does to the agent's surroundings, and what it sees of them."""

    def __init__(self, folder: Path, kubelet: FakeKubelet) -> None:
        self.kubelet = kubelet
        self.kube = FakeKube()
        self.file = folder / "gpus.yaml"
        self.processes: list[GpuProcess] = []
        self.driver_tells = True
        self.settings = Settings(
            node_name=NODE,
            device_plugin_dir=kubelet.directory,
            pod_resources_socket=kubelet.pod_resources_socket,
            mps_root=folder / "mps",
            cdi_dir=folder / "cdi",
            ops_listen=None,
            simulated_gpus=self.file,
        )
        self.write_gpus({}, {})
        self.kube.put(NODES, {"metadata": {"name": NODE}, "status": {}})
        self._names = 0

    def write_gpus(self, *entries: Json) -> None:
        gpus = [{"uuid": gpu(n + 1), **A100, **entry} for n, entry in enumerate(entries)]
        self.file.write_text(yaml.safe_dump({"gpus": gpus}))

    # The agent.

    @asynccontextmanager
    async def agent(self, *, farewell: bool = False) -> AsyncIterator["asyncio.Task[None]"]:
        """Runs an agent; at the end of the block it dies, without a farewell unless told so."""
        with pytest.MonkeyPatch.context() as patch:
            if not farewell:
                patch.setattr(Controller, "say_goodbye", _die)
            for limit in ("_FAREWELL_SECONDS", "_ARRIVAL_SECONDS"):  # where the machine is busy
                patch.setattr(controller, limit, DEADLINE)
            task = asyncio.create_task(self._run())
            try:
                yield task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        async def connect() -> FakeKube:
            return self.kube

        gpus, mps = await self.find_hardware()
        await run_agent(self.settings, gpus, mps, connect)

    async def find_hardware(self) -> tuple[Gpus, MpsControl]:
        """What the agent runs on; a test may put something else in its place."""
        gpus = MachineGpus(self)
        return gpus, SimulatedMps(gpus)

    # The layout.

    def lay_out(self, *slices: dict[str, int], release: bool = False, **more: Any) -> int:
        """Writes the NodeLayout's spec, one entry a GPU from the first; its generation."""
        gpus = [{"uuid": gpu(n + 1), "slices": entry} for n, entry in enumerate(slices)]
        spec = {"release": release, "gpus": gpus, **more}
        try:
            self.kube.get(NODE_LAYOUTS, NODE)
        except KeyError:
            obj = self.kube.put(NODE_LAYOUTS, {"metadata": {"name": NODE}, "spec": spec})
        else:
            obj = self.kube.change(NODE_LAYOUTS, NODE, {"spec": spec})
        return int(obj["metadata"]["generation"])

    async def applied(self, *slices: dict[str, int]) -> Json:
        """Writes a layout and waits for its acknowledgement; the NodeLayout's status."""
        return await self.acknowledged(self.lay_out(*slices))

    async def acknowledged(self, generation: int) -> Json:
        async def probe() -> Any:
            status = self.status()
            return status if status.get("observedGeneration") == generation else None

        return dict(await eventually(probe, f"generation {generation}", every=0.003))

    def status(self) -> Json:
        return dict(self.kube.get(NODE_LAYOUTS, NODE).get("status") or {})

    def condition(self, type: str) -> Json:
        conditions = self.status().get("conditions") or []
        return next((c for c in conditions if c["type"] == type), {})

    def slices(self) -> dict[str, str]:
        """The state of each slice in the NodeLayout's status."""
        gpus = self.status().get("gpus") or []
        return {s["id"]: s["state"] for entry in gpus for s in entry["slices"]}

    def reasons(self) -> list[str | None]:
        """Why each GPU is not healthy, by index, None for those that are."""
        return [entry.get("reason") for entry in self.status().get("gpus") or []]

    def events(self, reason: str) -> list[str]:
        """The messages of the Events of that reason."""
        return [event["message"] for event in self._events(reason)]

    def regarding(self, reason: str) -> list[str]:
        """The pods that the Events of that reason are about."""
        about = [event["involvedObject"] for event in self._events(reason)]
        return [f"{pod['namespace']}/{pod['name']}" for pod in about]

    def _events(self, reason: str) -> list[Json]:
        events = self.kube.api.all(EVENTS)
        return [event for event in events if event["reason"] == reason]

    def holders(self) -> dict[str, tuple[str, str]]:
        gpus = self.status().get("gpus") or []
        return {
            s["id"]: (s["pod"], s["container"])
            for entry in gpus
            for s in entry["slices"]
            if "pod" in s
        }

    def allocatable(self) -> dict[str, str]:
        """The node's slices, without those that are 0."""
        status = self.kube.get(NODES, NODE)["status"]
        return {name: n for name, n in status.get("allocatable", {}).items() if n != "0"}

    # Pods.

    def bind(self, size: int, *, name: str = "", init: bool = False, **status: Any) -> str:
        """A pod that is bound to the node and asks for one slice; its key."""
        self._names += 1
        name = name or f"pod-{self._names}"
        self.kube.put(PODS, pod_manifest(name, size, init=init, node=NODE, **status))
        return f"default/{name}"

    async def run_pod(self, size: int, *, name: str = "", init: bool = False) -> str:
        """The pod is bound and the kubelet admits it; its key."""
        key = self.bind(size, name=name, init=init)
        await self.admit(key, size, init=init)
        return key

    async def admit(self, key: str, size: int, *, init: bool = False, **more: Any) -> Any:
        name = key.partition("/")[2]
        uid = self.kube.get(PODS, name, "default")["metadata"]["uid"]
        response = await self.kubelet.admit(key, resource(size), uid=uid, init=init, **more)
        self.kube.change(
            PODS,
            name,
            {"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}},
            "default",
        )
        return response

    def end_pod(self, key: str, phase: str = "Succeeded") -> None:
        name = key.partition("/")[2]
        self.kubelet.forget(key)
        self.kube.change(PODS, name, {"status": {"phase": phase}}, "default")

    async def until(self, probe: Any, what: str, seconds: float = DEADLINE) -> Any:
        async def ask() -> Any:
            return probe()

        return await eventually(ask, what, seconds=seconds, every=0.003)


def pod_manifest(
    name: str, size: int, *, init: bool = False, node: str = "", **status: Any
) -> Json:
    container = {"name": "main", "resources": {"limits": {resource(size): "1"}}}
    kind = "initContainers" if init else "containers"
    spec: Json = {kind: [container]}
    if node:
        spec["nodeName"] = node
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
        "status": {"phase": "Pending", **status},
    }


class MachineGpus(SimulatedGpus):
    """GPUs whose processes are the test's."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.file)
        self._machine = machine

    @property
    def tells_memory(self) -> bool:
        return True

    async def processes(self, gpu: GpuUuid) -> Sequence[GpuProcess]:
        if not self._machine.driver_tells:
            raise DriverHangs("the driver does not answer")
        known = any(entry.uuid == gpu for entry in self.read())
        return self._machine.processes if known else []


@pytest.fixture
def machine(short_path: Path, kubelet: FakeKubelet) -> Machine:
    return Machine(short_path, kubelet)
