"""A few words for talking to the real cluster: make a pod, wait for it, read what it printed."""

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from hack.cluster.controlplane import ControlPlane
from tests.waiting import DEADLINE

T = TypeVar("T")
Json = dict[str, Any]

_SHOWN = "that was all"
SHOW_AND_STAY = f'id -u; env; echo {_SHOWN}; trap "exit 0" TERM; sleep 3600 & wait'


def until(probe: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
    """The first truthy answer; an AssertionError that names `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; last {answer!r}"
        time.sleep(0.05)


class Cluster:
    """kubectl on one namespace of a control plane."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        done = self.plane.kubectl(
            f"--namespace={self.namespace}", *arguments, input=input, check=check
        )
        return done.stdout if check else done.stdout + done.stderr

    def apply(self, *objects: Json) -> None:
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--filename=-", input=json.dumps(document))

    def refused(self, *objects: Json) -> str:
        """What kubectl says of objects that the API server does not take."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        done = self.plane.kubectl(
            f"--namespace={self.namespace}",
            "create",
            "--filename=-",
            input=json.dumps(document),
            check=False,
        )
        assert done.returncode != 0, "it was taken"
        return done.stderr

    def get(self, *what: str) -> Json:
        found: Json = json.loads(self.kubectl("get", *what, "--output=json"))
        return found

    def pod(self, name: str) -> Json:
        return self.get("pod", name)

    def wait_phase(self, name: str, phase: str, seconds: float = DEADLINE) -> Json:
        def reached() -> Json | None:
            pod = self.pod(name)
            return pod if pod["status"].get("phase") == phase else None

        found = until(reached, f"pod {name} is {phase}", seconds)
        assert found is not None
        return found

    def running(self, name: str) -> Json:
        return self.wait_phase(name, "Running")

    def environment(self, name: str) -> dict[str, str]:
        """What the pod's own `id -u` and `env` printed; the uid under the key `uid`."""

        def printed() -> list[str]:
            lines = self.kubectl("logs", name).splitlines()
            return lines if _SHOWN in lines else []

        uid, *rest = until(printed, f"pod {name} has printed its environment")
        return {"uid": uid, **dict(line.split("=", 1) for line in rest if "=" in line)}

    def events(self, name: str, reason: str) -> list[str]:
        return [
            event["message"]
            for event in self.get("events")["items"]
            if event["involvedObject"].get("name") == name and event["reason"] == reason
        ]

    def delete(self, *names: str) -> None:
        self.kubectl("delete", "pod", *names, "--ignore-not-found", "--wait=true")

    def layout(self, node: str) -> Json:
        found: Json = json.loads(self.kubectl("get", "nodelayout", node, "--output=json"))
        return found


def slice_pod(name: str, size: int, *, command: str = SHOW_AND_STAY, **spec: Any) -> Json:
    """A pod that asks for one slice and nothing else: no hostIPC, no runAsUser."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "localhost/busybox:1",
                    "command": ["sh", "-c", command],
                    "resources": {"limits": {f"nvidia.com/gpu-{size}gb": "1"}},
                }
            ],
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": False,
            **spec,
        },
    }
