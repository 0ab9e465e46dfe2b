"""A leading controller in tests, over an API server in memory, and the objects that it sees."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mpslice.kube.api import Json
from mpslice.kube.events import EventType, ObjectRef
from mpslice.nodelayout import NodeLayout, spec_to_json, status_to_json
from planner import controller
from planner.controller import Controller
from planner.decide import decide
from planner.metrics import Metrics
from planner.state.absence import Absences
from planner.view import Decision, View
from planner.writes.actions import MANAGED_LABEL
from tests.planner.agents import LABEL, node_manifest, node_status
from tests.planner.conftest import SETTINGS
from tests.planner.memory import Memory
from tests.planner.pods import slice_pod


class Recorder:
    """Keeps who was told what."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def record(self, about: ObjectRef, type: EventType, reason: str, message: str) -> bool:
        self.said.append((about.name, reason))
        return True


def node_object(name: str, shows: dict[str, str], **labels: str) -> Json:
    node: Json = node_manifest(name, labels={**LABEL, MANAGED_LABEL: "true", **labels})
    node.update(node_status())
    node["metadata"]["uid"] = name
    node["status"]["allocatable"] = {**node["status"]["allocatable"], **shows}
    return node


def layout_object(layout: NodeLayout) -> Json:
    assert layout.status is not None
    metadata = {"name": layout.name, "uid": layout.uid, "generation": 1}
    return {
        "apiVersion": "mpslice.io/v1alpha1",
        "kind": "NodeLayout",
        "metadata": metadata,
        "spec": spec_to_json(layout.spec),
        "status": status_to_json(layout.status),
    }


def pod_object(name: str, size: int, created: str, **options: Any) -> Json:
    pod: Json = slice_pod(name, size, **options)
    pod["metadata"].update(uid=name, creationTimestamp=created)
    return pod


@asynccontextmanager
async def leading(
    kube: Memory, absences: Callable[[], Absences] = Absences, message: str = ""
) -> AsyncIterator[Recorder]:
    recorder: Any = Recorder()
    planner = Controller(kube, SETTINGS, recorder, Metrics(), absences=absences)
    tasks = [asyncio.create_task(planner.follow()), asyncio.create_task(planner.lead(message))]
    try:
        yield recorder
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def until(holds: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def told() -> bool:
        return holds()

    return told


def count_decisions(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Has the controller count its decisions; returns how to ask for how many there were."""
    decided = 0

    def counting(view: View) -> Decision:
        nonlocal decided
        decided += 1
        return decide(view)

    monkeypatch.setattr(controller, "decide", counting)
    return lambda: decided
