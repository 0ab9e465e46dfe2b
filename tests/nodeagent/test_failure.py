"""What ends the agent is told in the NodeLayout, if there is one that can be written."""

from mpslice.kube.api import NODE_LAYOUTS
from mpslice.kube.errors import Unreachable
from nodeagent.errors import BadSimulation, UnknownNode
from nodeagent.failure import agent_error, report_failure
from tests.nodeagent.conftest import NODE
from tests.nodeagent.fake_kube import FakeKube

ERROR = BadSimulation("simulated GPUs: /gpus.yaml: No such file or directory")
APPLIED = {"type": "Applied", "status": "True", "reason": "Applied", "message": ""}


def layout(kube: FakeKube) -> None:
    conditions = [{**APPLIED, "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    status = {"observedGeneration": 3, "conditions": conditions}
    kube.put(NODE_LAYOUTS, {"metadata": {"name": NODE}, "spec": {"gpus": []}, "status": status})


async def test_condition_ready_carries_the_line() -> None:
    kube = FakeKube()
    layout(kube)

    async def connect() -> FakeKube:
        return kube

    await report_failure(connect, NODE, ERROR)
    status = kube.get(NODE_LAYOUTS, NODE)["status"]
    ready, applied = status["conditions"]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", "BadSimulation")
    assert ready["message"] == str(ERROR)
    assert applied["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert status["observedGeneration"] == 3
    assert kube.closed


async def test_without_a_layout_or_an_api_server_nothing_happens() -> None:
    async def connect() -> FakeKube:
        return FakeKube()

    async def refused() -> FakeKube:
        raise Unreachable("away")

    await report_failure(connect, NODE, ERROR)
    await report_failure(refused, NODE, ERROR)


def test_error_is_found_in_the_group_that_a_task_group_makes_of_it() -> None:
    inner = UnknownNode("no node")
    group = ExceptionGroup("outer", [OSError(), ExceptionGroup("inner", [inner])])
    assert agent_error(group) is inner
    assert agent_error(ERROR) is ERROR
    assert agent_error(OSError()) is None
    assert agent_error(ExceptionGroup("none", [OSError()])) is None
