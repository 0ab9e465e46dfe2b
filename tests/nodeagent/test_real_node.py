"""The agent as a process on a real node: real kubelet, containerd, API server and scheduler.

The NodeLayout is written by the tests, in the planner's place. The traps are those of the kubelet's
device manager (kubelet/cm/devicemanager) that lose pods when a plugin does the wrong thing.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from hack.cluster import controlplane, lifecycle
from hack.cluster import node as nodes
from hack.cluster.controlplane import ControlPlane
from hack.cluster.images import BUSYBOX_IMAGE
from hack.cluster.node import Node
from hack.cluster.parts import Parts
from hack.cluster.progress import Say
from tests.chart import render
from tests.cluster import plugin
from tests.nodeagent.conftest import A100, device, gpu, resource

T = TypeVar("T")
Json = dict[str, Any]

# Before the tests that share the session's node: a machine can have one.
pytestmark = pytest.mark.usefixtures("machine_without_node")


def until(probe: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """The first truthy answer; fails the test, naming `what`, after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last {value!r:.400}")
        time.sleep(0.02)


class Agent:
    """The agent's process and its surroundings."""

    def __init__(self, plane: ControlPlane, node: Node, folder: Path) -> None:
        self.plane = plane
        self.node = node
        self._folder = folder
        self.log = folder / "agent.log"
        gpus = [{"uuid": gpu(number), **A100} for number in (1, 2)]
        (folder / "gpus.yaml").write_text(yaml.safe_dump({"gpus": gpus}))
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable,
            "-m",
            "nodeagent.main",
            f"--node-name={self.node.name}",
            f"--kubeconfig={self.plane.kubeconfig}",
            f"--device-plugin-dir={self.node.device_plugin_dir}",
            f"--pod-resources-socket={self.node.pod_resources_socket}",
            f"--simulated-gpus={self._folder / 'gpus.yaml'}",
            f"--mps-root={self._folder / 'mps'}",
            "--ops-listen=127.0.0.1:0",
        ]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stderr=log)

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(10)

    def restart(self) -> None:
        """kill -9, and a new one."""
        self.end()
        self.process = self._start()

    # What the API server shows.

    def get(self, kind: str, name: str) -> Json:
        done = self.plane.kubectl("get", kind, name, "--output=json", check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def layout(self) -> Json:
        return self.get("nodelayout", self.node.name)

    def slices(self) -> dict[str, str]:
        """The pod of each slice in the NodeLayout's status, "" for a free one."""
        gpus = self.layout().get("status", {}).get("gpus", [])
        return {s["id"]: s.get("pod", "") for entry in gpus for s in entry["slices"]}

    def condition(self, type_: str) -> Json:
        conditions = self.layout().get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})

    def allocatable(self) -> dict[str, str]:
        status = self.get("node", self.node.name)["status"]
        return {
            name: count
            for name, count in status["allocatable"].items()
            if name.startswith("nvidia.com/") and count != "0"
        }

    def apply(self, *slices: dict[str, int]) -> None:
        """Writes the layout, one entry a GPU, and waits for its acknowledgement."""
        gpus = [{"uuid": gpu(n + 1), "slices": entry} for n, entry in enumerate(slices)]
        obj = {
            "apiVersion": "mpslice.io/v1alpha1",
            "kind": "NodeLayout",
            "metadata": {"name": self.node.name},
            "spec": {"gpus": gpus},
        }
        self.plane.kubectl("apply", "--filename=-", input=json.dumps(obj))

        def acknowledged() -> bool:
            found = self.layout()
            seen = found.get("status", {}).get("observedGeneration")
            return bool(seen == found["metadata"]["generation"])

        until(acknowledged, "acknowledged")

    # Pods.

    @contextmanager
    def creating(self, name: str, size: int) -> Iterator[None]:
        """The pod is created while the block runs."""
        with ThreadPoolExecutor(1) as thread:
            created = thread.submit(self.create, name, size)
            yield
            created.result()

    def create(
        self, name: str, size: int, *, node_name: str = "", init: bool = False, **more: Any
    ) -> None:
        slice_container = {
            "name": "slice",
            "image": BUSYBOX_IMAGE,
            "command": ["sh", "-c", "env | sort" if init else "env | sort; exec sleep 3600"],
            "resources": {"limits": {resource(size): "1"}},
        }
        idle = {"name": "idle", "image": BUSYBOX_IMAGE, "command": ["sleep", "3600"]}
        spec = {
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Always",
            "containers": [idle] if init else [slice_container],
            **({"initContainers": [slice_container]} if init else {}),
            **({"nodeName": node_name} if node_name else {}),
            **more,
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.plane.kubectl("create", "--filename=-", input=json.dumps(pod))

    def ready(self, name: str) -> None:
        self.plane.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")

    def run(self, name: str, size: int, **more: Any) -> None:
        self.create(name, size, **more)
        self.ready(name)

    def delete(self, name: str) -> None:
        self.plane.kubectl("delete", "pod", name, "--wait=true", "--timeout=60s")

    def verdict(self, name: str) -> str:
        """The pod's phase, once the kubelet has let it run or refused it."""

        def phase() -> str:
            found = str(self.get("pod", name)["status"]["phase"])
            return found if found in ("Running", "Failed") else ""

        return until(phase, f"{name} runs or is refused")

    def container(self, name: str) -> Json:
        """The status of the pod's container: the same containerID is the same process."""
        return dict(self.get("pod", name)["status"]["containerStatuses"][0])


@pytest.fixture(scope="module")
def plane(cluster_parts: Parts, cluster_say: Say) -> Iterator[ControlPlane]:
    """A control plane without webhook and planner, which would have a say in these pods."""
    with lifecycle.owned(cluster_say) as cluster:
        plane = controlplane.start(cluster, cluster_parts, cluster_say)
        documents = render(cluster_parts.helm, "--show-only=templates/crd.yaml")
        plane.kubectl("apply", "--filename=-", input=json.dumps(documents[0]))
        plane.kubectl("wait", "--for=condition=Established", "crd/nodelayouts.mpslice.io")
        yield plane
    for program in plane.programs:
        program.stop()


@pytest.fixture(scope="module")
def own_node(plane: ControlPlane, cluster_say: Say) -> Iterator[Node]:
    """The machine's node, with no agent but ours."""
    node = plugin._get("node", lambda: nodes.start(plane, cluster_say))
    yield node
    for program in node.programs:
        program.stop()


@pytest.fixture
def agent(plane: ControlPlane, own_node: Node) -> Iterator[Agent]:
    folder = Path(tempfile.mkdtemp(prefix="na-"))
    agent = Agent(plane, own_node, folder)
    yield agent
    plane.kubectl("delete", "pods", "--all", "--grace-period=0", "--wait=true")
    if agent.process.poll() is None:
        agent.apply({}, {})
        agent.end(signal.SIGTERM)
    plane.kubectl("delete", "nodelayout", own_node.name, "--ignore-not-found")
    shutil.rmtree(folder)


def test_pod_runs_in_its_slice_and_the_slice_makes_room_when_it_ends(
    agent: Agent, plane: ControlPlane
) -> None:
    agent.apply({"10gb": 1, "20gb": 1}, {})
    assert agent.allocatable() == {resource(10): "1", resource(20): "1"}
    agent.run("train", 10)
    environment = plane.kubectl("logs", "train").stdout.splitlines()
    for line in (
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=9533M",
        "CUDA_MPS_PIPE_DIRECTORY=/run/mpslice/pipe",
        "MPSLICE_MEMORY_MIB=9533",
        "MPSLICE_MEMORY_FRACTION=0.1164",
        f"NVIDIA_VISIBLE_DEVICES={gpu(1)}",
    ):
        assert line in environment
    until(lambda: agent.slices()[device(1, 10, 0)] == "default/train", "its pod is told")
    agent.apply({"80gb": 1}, {})
    assert agent.condition("Applied")["reason"] == "SliceInUse"
    assert agent.slices() == {device(1, 10, 0): "default/train"}
    agent.delete("train")
    until(lambda: agent.slices() == {device(1, 80, 0): ""}, "its room is carved anew")
    assert agent.allocatable() == {resource(80): "1"}
    assert agent.condition("Applied")["status"] == "True"


def test_kubelet_never_takes_back_what_the_agent_wrote(agent: Agent) -> None:
    """Its sync, within 10.4 s, writes the same values."""
    agent.apply({"10gb": 3}, {"20gb": 1})
    agent.apply({"10gb": 2}, {"20gb": 2})
    wanted = {resource(10): "2", resource(20): "2"}
    deadline = time.monotonic() + 11
    while time.monotonic() < deadline:
        assert agent.allocatable() == wanted
        time.sleep(0.25)


def test_killed_agent_comes_back_to_the_same_slices_under_a_running_pod(agent: Agent) -> None:
    agent.apply({"10gb": 2, "20gb": 1}, {})
    agent.run("train", 10)
    until(lambda: "default/train" in agent.slices().values(), "holder")
    slices, container = agent.slices(), agent.container("train")["containerID"]
    agent.restart()
    agent.apply({"10gb": 2, "20gb": 1}, {"5gb": 1})
    assert agent.slices() == {**slices, device(2, 5, 0): ""}
    agent.run("second", 10)
    assert agent.container("train")["containerID"] == container
    assert agent.container("train")["restartCount"] == 0


def test_stopped_agent_leaves_nothing_to_be_bound(agent: Agent) -> None:
    agent.apply({"10gb": 3}, {})
    agent.run("train", 10)
    until(lambda: "default/train" in agent.slices().values(), "holder")
    agent.end(signal.SIGTERM)
    assert int(agent.allocatable().get(resource(10), "0")) <= 1
    assert agent.condition("Ready")["reason"] == "Stopping"
    assert agent.container("train")["state"].get("running")


def test_kubelet_restart_loses_no_pod(agent: Agent, own_node: Node) -> None:
    """Trap B: running, init-slice and crash-looping pods are admitted again, or Failed for good."""
    agent.apply({"10gb": 4}, {})
    agent.run("train", 10)
    agent.run("prepared", 10, init=True)
    agent.create("crashing", 10)
    agent.plane.kubectl("wait", "--for=condition=Ready", "pod/crashing", "--timeout=60s")
    agent.plane.kubectl("exec", "crashing", "--", "kill", "-9", "1", check=False)
    container = agent.container("train")["containerID"]
    own_node.restart_kubelet()
    agent.run("after", 10)
    for name in ("train", "prepared", "crashing"):
        agent.ready(name)
        assert agent.get("pod", name)["status"]["phase"] == "Running"
    assert agent.container("train")["containerID"] == container
    held = {"default/train", "default/prepared", "default/crashing", "default/after"}
    until(lambda: set(agent.slices().values()) == held, "everybody's slice is known")


def test_pods_bound_while_the_kubelet_was_down_run(agent: Agent, own_node: Node) -> None:
    agent.apply({"10gb": 1}, {})
    own_node.kubelet.stop()
    agent.create("late", 10, node_name=own_node.name)
    own_node.kubelet.start()
    agent.ready("late")


def test_withdrawals_racing_pods_lose_no_pod_and_no_kubelet(agent: Agent, own_node: Node) -> None:
    """Trap A: a list without an id that is just being allocated panics the kubelet; and a pod that
    is bound to a slice that turns Unhealthy before its admission is Failed for good."""
    kubelet = own_node.kubelet_pid
    for turn in range(15):
        agent.apply({"10gb": 2}, {})
        with agent.creating(f"racer-{turn}", 10):
            agent.apply({"40gb": 2}, {})
        held = agent.slices().get(device(1, 10, 0)) or agent.slices().get(device(1, 10, 1))
        if not held:  # the withdrawal was quicker, and the pod has not been bound
            agent.apply({"10gb": 1}, {})
        assert agent.verdict(f"racer-{turn}") == "Running"
        agent.delete(f"racer-{turn}")
    assert own_node.kubelet_pid == kubelet
    assert own_node.kubelet.running


def test_container_that_restarts_in_place_keeps_its_slice(agent: Agent) -> None:
    agent.apply({"10gb": 2}, {})
    agent.run("train", 10)
    until(lambda: "default/train" in agent.slices().values(), "holder")
    slices = agent.slices()
    agent.plane.kubectl("exec", "train", "--", "kill", "-9", "1", check=False)
    agent.plane.kubectl("exec", "train", "--", "kill", "1", check=False)
    agent.ready("train")
    assert agent.slices() == slices


def test_unknown_node_is_named(plane: ControlPlane, own_node: Node) -> None:
    with tempfile.TemporaryDirectory(prefix="na-") as folder:
        file = Path(folder) / "gpus.yaml"
        file.write_text(yaml.safe_dump({"gpus": [{"uuid": gpu(1), **A100}]}))
        (Path(folder) / "dp").mkdir()
        command = [
            sys.executable,
            "-m",
            "nodeagent.main",
            "--node-name=nobody",
            f"--kubeconfig={plane.kubeconfig}",
            f"--device-plugin-dir={folder}/dp",
            f"--pod-resources-socket={own_node.pod_resources_socket}",
            f"--simulated-gpus={file}",
            "--ops-listen=127.0.0.1:0",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the cluster has no node nobody" in done.stderr.splitlines()[-1]
