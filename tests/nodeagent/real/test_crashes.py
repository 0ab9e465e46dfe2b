"""The agent is killed at every await on its way to a layout; the next one ends as planned.

A place where it waits is told by the step of the way and our functions and lines that lead there;
what a loop does at one place again and again is one place.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hack.cluster.layout import CHECKOUT
from tests.nodeagent.conftest import device
from tests.nodeagent.real import checker
from tests.nodeagent.real.cluster import NAMESPACE, Cluster
from tests.waiting import DEADLINE, eventually

pytestmark = [
    pytest.mark.usefixtures("machine_without_node"),
]

BEFORE = ({"10gb": 3, "5gb": 1}, {"20gb": 2})
MOST = 60
AFTER = ({"10gb": 1, "60gb": 1}, {"20gb": 1, "6gb": 3})


class AgentFactory:
    """Forks agents from one process that has everything imported."""

    def __init__(self, folder: Path) -> None:
        self.armed = folder / "armed"
        self.report = folder / "killed-at"
        command = [sys.executable, "-m", "tests.nodeagent.real.crashing"]
        self._process = subprocess.Popen(
            command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say(None)

    def _say(self, line: str | None) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if line is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def start(self, flags: list[str], log: Path, survived: list[str] | None = None) -> int:
        """An agent's pid. Given `survived`, and once `armed` is there, it is killed at the first
        place where it waits that is none of those."""
        order = {
            "flags": flags,
            "log": str(log),
            "doomed": survived is not None,
            "survived": survived or [],
            "report": str(self.report),
            "armed": str(self.armed),
        }
        return int(self._say(json.dumps(order)))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(DEADLINE)


@pytest.fixture
def factory(cluster: Cluster) -> Iterator[AgentFactory]:
    factory = AgentFactory(cluster.folder)
    yield factory
    factory.close()


async def test_every_crash_point_ends_in_the_planned_layout(
    cluster: Cluster, factory: AgentFactory
) -> None:
    await cluster.apply(*BEFORE)
    await cluster.create("small", 10, stuck=True)
    await cluster.create("large", 20, stuck=True)
    held = {await cluster.holder_is("small"): "small", await cluster.holder_is("large"): "large"}
    cluster.agent.end()
    sites: list[str] = []
    ended = 0
    # What comes when differs, so one agent that got to its end may not have been everywhere.
    while ended < 2 and len(sites) < MOST:
        site = await _crash(cluster, factory, sites, held)
        sites += [site] if site else []
        ended += not site
    cluster.agent.start()  # which the fixture ends in good order
    assert len(sites) >= 15, sites
    for part in ("Withdrawal.withdraw", "DevicePlugin.offer", "Publisher.write_layout"):
        assert any(part in site for site in sites), part
    assert "Failed" not in [pod["status"]["phase"] for pod in await cluster.pods()]


async def _crash(
    cluster: Cluster, factory: AgentFactory, survived: list[str], held: dict[str, str]
) -> str:
    """Where an agent was killed; "" when it waited nowhere but at places that it survives."""
    factory.armed.unlink(missing_ok=True)
    factory.report.unlink(missing_ok=True)
    flags, log = cluster.agent.flags, cluster.agent.log
    doomed = factory.start(flags, log, survived)
    await cluster.apply(*BEFORE)
    factory.armed.touch()
    generation = await cluster.lay_out(*AFTER)

    async def over() -> bool:
        acknowledged = (await cluster.status()).get("observedGeneration") == generation
        return acknowledged or factory.report.exists()

    await eventually(over, "killed, or at its end", every=0.005)
    site = factory.report.read_text() if factory.report.exists() else ""
    with suppress(ProcessLookupError):
        os.kill(doomed, signal.SIGKILL)
    factory.armed.unlink(missing_ok=True)
    successor = factory.start(flags, log)
    await cluster.acknowledged(generation)
    await _as_planned(cluster, held, f"killed at {site}")
    os.kill(successor, signal.SIGKILL)
    return site


async def _as_planned(cluster: Cluster, held: dict[str, str], when: str) -> None:
    (small,) = [id_ for id_, pod in held.items() if pod == "small"]
    (large,) = [id_ for id_, pod in held.items() if pod == "large"]
    planned = {small, large, device(1, 60, 0), *(device(2, 6, n) for n in range(3))}
    last: list[str] = []

    async def agree() -> bool:
        view, pods = await cluster.kubelet_view(), await cluster.pods()
        status = await cluster.status()
        last[:] = checker.disagreements(view, status, pods)
        if view.healthy != planned:
            last.append(f"{sorted(view.healthy)} are not {sorted(planned)}")
        if await cluster.allocatable() != checker.allocatable_of(planned):
            last.append(f"allocatable {await cluster.allocatable()}")
        return not last

    try:
        await eventually(agree, when, every=0.01)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from error
    slices = await cluster.slices()
    assert {id_: slices[id_] for id_ in held} == {
        id_: f"{NAMESPACE}/{pod}" for id_, pod in held.items()
    }, when
