"""The chart as a release on a real node of its own, with the project's image."""

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from hack.cluster.api import NotAnswered
from hack.cluster.controlplane import ControlPlane
from hack.cluster.images import BUSYBOX_IMAGE
from hack.cluster.node import Node
from hack.cluster.programs import NODE_LABEL, SIMULATED_GPUS
from hack.image.build import Built
from tests.chart import CHART
from tests.e2e.cluster import SHOW_AND_STAY, Cluster, slice_pod, until
from tests.waiting import DEADLINE

Json = dict[str, Any]
NAMESPACE = "mpslice-system"
RELEASE = "mpslice"
_HELM_SECONDS = 320
_README = CHART.parent.parent / "README.md"


def readme_pod() -> Json:
    """The first manifest of the README, with an image that this machine has."""
    (text, *_) = re.findall(r"<<EOF\n(.*?)\nEOF", _README.read_text(), re.DOTALL)
    pod: Json = yaml.safe_load(text)
    (container,) = pod["spec"]["containers"]
    container |= {"image": BUSYBOX_IMAGE, "command": ["sh", "-c", SHOW_AND_STAY]}
    return pod


class Release:
    """helm and kubectl on one cluster whose node has the image; `hardware` are the values for its
    two GPUs, which are simulated if not given."""

    def __init__(
        self,
        plane: ControlPlane,
        node: Node,
        image: Built,
        folder: Path,
        hardware: Json | None = None,
    ) -> None:
        self.plane = plane
        self.node = node
        self.image = image
        self.pods = Cluster(plane, "default")
        self.values = folder / "values.yaml"
        repository, _, tag = image.reference.rpartition(":")
        values: Json = {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "nodeAgent": {},
            "planner": {"ui": {"enabled": True}},
            **(hardware or {"simulatedGPUs": list(SIMULATED_GPUS)}),
        }
        values["nodeAgent"]["podResourcesDir"] = str(node.pod_resources_socket.parent)
        self.values.write_text(yaml.safe_dump(values))

    def helm(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run helm as administrator in the release's namespace."""
        done = subprocess.run(
            [
                str(self.plane.parts.helm),
                f"--kubeconfig={self.plane.kubeconfig}",
                f"--namespace={NAMESPACE}",
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_HELM_SECONDS,
        )
        assert not check or done.returncode == 0, f"helm {arguments}: {done.stderr}{self.trouble()}"
        return done

    def install(self, *arguments: str) -> float:
        """`helm install --wait`; how long it took, in seconds."""
        return self._timed("install", RELEASE, str(CHART), "--create-namespace", *arguments)

    def upgrade(self, *values: str) -> float:
        """`helm upgrade --wait` with values such as `logLevel=debug`."""
        return self._timed("upgrade", RELEASE, str(CHART), *(f"--set={value}" for value in values))

    def _timed(self, *arguments: str) -> float:
        started = time.monotonic()
        self.helm(*arguments, f"--values={self.values}", "--wait", "--timeout=300s")
        return time.monotonic() - started

    def trouble(self) -> str:
        """What the cluster says, for who reads a failed test."""
        told = (
            ("get", "pods", "-A", "-o=wide"),
            ("get", "events", "-A", "--field-selector=type=Warning"),
            ("get", "nodelayouts", "-o=yaml"),
            *(
                ("logs", f"-n={NAMESPACE}", f"-l=app.kubernetes.io/component={name}", "--tail=20")
                for name in ("planner", "nodeagent", "mps")
            ),
        )
        answers = (self.plane.kubectl(*words, check=False).stdout[-4000:] for words in told)
        return "\n" + "\n".join(answers)

    def hand_over(self) -> None:
        """Labels the node; returns when its GPUs are there."""
        self.label(**NODE_LABEL)
        until(lambda: self.summary().get("gpus") == len(SIMULATED_GPUS), "the node's GPUs")

    def label(self, **labels: str | None) -> None:
        body = {"metadata": {"labels": labels}}
        path = f"/api/v1/nodes/{self.node.name}"
        self.plane.api.request("PATCH", path, body, "application/merge-patch+json")

    def node_is_ready(self) -> bool:
        node = self.plane.api.find(f"/api/v1/nodes/{self.node.name}") or {"status": {}}
        conditions = node["status"].get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def layout(self) -> Json | None:
        found: Json | None = self.plane.api.find(
            f"/apis/mpslice.io/v1alpha1/nodelayouts/{self.node.name}"
        )
        return found

    def summary(self) -> Json:
        layout = self.layout() or {}
        found: Json = layout.get("status", {}).get("summary", {})
        return found

    def condition(self, type_: str) -> Json:
        """The NodeLayout's condition of that type; {} without one."""
        conditions = ((self.layout() or {}).get("status") or {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == type_), {})

    def ready_message(self) -> str:
        """What the NodeLayout's condition Ready says; "" without one."""
        return str(self.condition("Ready").get("message", ""))

    def holders(self) -> set[str]:
        """The pods that the NodeLayout names, as `namespace/name`."""
        return set(self.held())

    def held(self) -> dict[str, str]:
        """The same, with the id of each pod's slice."""
        gpus = ((self.layout() or {}).get("status") or {}).get("gpus") or []
        return {s["pod"]: s["id"] for gpu in gpus for s in gpu["slices"] if "pod" in s}

    def pods_of(self, component: str) -> list[Json]:
        """The component's pods, without those that are ending."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        selector = f"labelSelector=app.kubernetes.io/component={component}"
        pods: list[Json] = self.plane.api.get(f"{path}?{selector}")["items"]
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    def settled(self, component: str, count: int) -> list[Json]:
        """Waits until there are so many, as after a rollout whose last old pod is to end yet."""

        def found() -> list[Json]:
            pods = self.pods_of(component)
            return pods if len(pods) == count else []

        return until(found, f"{count} pods of {component}")

    def until_replaced(self, component: str) -> None:
        """Until no pod of the component is ending, which may still answer as it was told before."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        selector = f"labelSelector=app.kubernetes.io/component={component}"

        def all_stay() -> bool:
            pods = self.plane.api.get(f"{path}?{selector}")["items"]
            return not any(pod["metadata"].get("deletionTimestamp") for pod in pods)

        until(all_stay, f"the old pods of {component} have gone")

    def process(self, pod: str, namespace: str = "default") -> int:
        """The pid on this machine of a pod's first container."""
        found = self.plane.api.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
        container = found["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        listed = subprocess.run(
            [
                str(self.plane.parts.containerd_bin / "ctr"),
                f"--address={self.plane.cluster.containerd_socket}",
                "--namespace=k8s.io",
                "tasks",
                "list",
            ],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
        lines = (line.split() for line in listed.stdout.splitlines()[1:])
        return next(int(pid) for name, pid, *_ in lines if name == container)

    @contextmanager
    def forwarded(self, target: str, port: int, *options: str) -> Iterator[str]:
        """`kubectl port-forward` to a port of the release; yields the URL of this side."""
        kubectl = [str(self.plane.parts.kubectl), f"--kubeconfig={self.plane.kubeconfig}"]
        command = [
            *kubectl,
            f"--namespace={NAMESPACE}",
            "port-forward",
            target,
            f":{port}",
            *options,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline()  # "Forwarding from 127.0.0.1:40123 -> 8082"
                found = re.search(r"127\.0\.0\.1:(\d+)", said)
                assert found, f"kubectl port-forward said {said!r}"
                yield f"http://127.0.0.1:{found[1]}"
            finally:
                process.terminate()

    @contextmanager
    def namespace(self, name: str, **labels: str) -> Iterator[Cluster]:
        """A namespace with labels, in which pods can be made; it goes with all that is in it."""
        metadata = {"name": name, "labels": labels}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        self.plane.api.request("POST", "/api/v1/namespaces", body)
        try:
            account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
            until(lambda: self.plane.api.find(account), "the namespace's account")
            yield Cluster(self.plane, name)
        finally:
            self.plane.kubectl("delete", "namespace", name, "--timeout=300s")

    @contextmanager
    def requests(self) -> Iterator["Requests"]:
        """Meanwhile somebody asks for slice pods, ten a second, in dry run: nothing is made."""
        asking = Requests(self.plane)
        thread = threading.Thread(target=asking.run)
        thread.start()
        try:
            yield asking
        finally:
            asking.ended.set()
            thread.join()


class Requests:
    """Counts what became of the creation of slice pods."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.ended = threading.Event()
        self.accepted = 0
        self.ungated = 0
        self.refused: Counter[str] = Counter()
        self._first = self._last = 0.0

    def run(self) -> None:
        path = "/api/v1/namespaces/default/pods?dryRun=All"
        pod = slice_pod("asked-for", 10)
        while not self.ended.wait(0.1):
            try:
                made = self._plane.api.request("POST", path, pod)
            except NotAnswered as error:
                now = time.monotonic()
                self._first, self._last = self._first or now, now
                self.refused[_reason(str(error))] += 1
            else:
                self.accepted += 1
                self.ungated += "schedulingGates" not in made["spec"]

    def __str__(self) -> str:
        refused = self.refused.total()
        figures = f"{self.accepted + refused} slice pods asked for, {refused} refused"
        window = f" within {self._last - self._first:.1f} s" if refused else ""
        return f"{figures}{window}, {self.ungated} let through without the webhook"


def _reason(message: str) -> str:
    """The kind of a refusal, without what changes from one to the next."""
    try:
        text: str = json.loads(message[message.index("{") :])["message"]
    except ValueError:
        return message[:160]
    return text[:160]
