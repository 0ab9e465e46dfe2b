"""Objects as users write them, and the command as they call it."""

import json
from typing import Any

import pytest

from cli.main import main

Json = dict[str, Any]
LABEL = "nos.nebuly.com/gpu-partitioning"


class Run:
    """The command in this process: its status and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> "Run":
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        self.status = ended.value.code
        self.out, self.err = self._capsys.readouterr()
        return self

    @property
    def json(self) -> Json:
        parsed: Json = json.loads(self.out)
        return parsed

    @property
    def placed(self) -> dict[str, str]:
        """The node of each pod that has a place, of JSON."""
        return {entry["pod"]: entry["node"] for entry in self.json["placed"]}

    @property
    def unplaced(self) -> dict[str, str]:
        """The message of each pod without a place, of JSON."""
        return {entry["pod"]: entry["message"] for entry in self.json["unplaced"]}

    @property
    def warnings(self) -> dict[str, str]:
        """What is warned of each object, of JSON."""
        return {entry["object"]: entry["message"] for entry in self.json["warnings"]}


def node(name: str = "n1", count: Any = "1", memory: Any = "81920", **labels: str) -> Json:
    gpus = {"nvidia.com/gpu.count": count, "nvidia.com/gpu.memory": memory}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                LABEL: "mps",
                **{key: value for key, value in gpus.items() if value is not None},
                **labels,
            },
        },
        "status": {"allocatable": {"cpu": "8", "memory": "64Gi", "pods": "110"}},
    }


def unlabelled(given: Json) -> Json:
    """The node before it is handed over."""
    del given["metadata"]["labels"][LABEL]
    return given


def pod(name: str, *sizes: int, node: str = "", owner: Json | None = None, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **({"ownerReferences": [owner]} if owner else {})},
        "spec": {**template(*sizes)["spec"], **({"nodeName": node} if node else {}), **spec},
    }


def asking(name: str, resources: Json, node: str = "", namespace: str = "default") -> Json:
    """A pod with these limits; one on a node runs there."""
    made = pod(name, node=node)
    made["metadata"]["namespace"] = namespace
    made["spec"]["containers"] = [{"name": "c", "image": "x", "resources": {"limits": resources}}]
    return made | ({"status": {"phase": "Running"}} if node else {})


def template(*sizes: int) -> Json:
    return {
        "metadata": {"labels": {"app": "x"}},
        "spec": {
            "containers": [
                {
                    "name": f"c{index}",
                    "image": "none",
                    "resources": {"limits": {f"nvidia.com/gpu-{size}gb": 1}},
                }
                for index, size in enumerate(sizes)
            ]
        },
    }


def workload(kind: str, name: str, *sizes: int, **spec: Any) -> Json:
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "team"},
        "spec": {**spec, "template": template(*sizes)},
    }


def layout(name: str, *gpus: Json, ready: bool = True, uid: str = "u") -> Json:
    """A NodeLayout as its agent reports it."""
    return {
        "apiVersion": "mpslice.io/v1alpha1",
        "kind": "NodeLayout",
        "metadata": {"name": name, "uid": uid},
        "spec": {"gpus": []},
        "status": {
            "gpus": list(gpus),
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def gpu(index: int, *slices: Json, **fields: Any) -> Json:
    return {
        "uuid": f"GPU-{index}",
        "index": index,
        "memoryMiB": 81920,
        "capacityGB": 85,
        "healthy": True,
        "slices": list(slices),
        **fields,
    }
