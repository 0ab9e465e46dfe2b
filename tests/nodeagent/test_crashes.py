"""The agent dies at every call on its way through a layout, and the next one ends as planned."""

import asyncio

from tests.nodeagent.conftest import Machine, device, resource

BEFORE = {"10gb": 3, "5gb": 1}
AFTER = {"10gb": 1, "60gb": 1}


class Crash:
    """Kills an agent at its n-th call to the API server or the kubelet, or theirs to it."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.agent: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0 and self.agent is not None:
            self.agent.cancel()

    @property
    def happened(self) -> bool:
        return self.left <= 0


async def crash_at(machine: Machine, number: int) -> bool:
    """Whether the agent had so many calls to make."""
    async with machine.agent():
        await machine.applied(BEFORE)
        assert machine.condition("Applied")["status"] == "True", machine.condition("Applied")
    held = [entry.ids[0] for entry in machine.kubelet.admitted]
    async with machine.agent() as agent:
        await machine.until(lambda: machine.kubelet.healthy(resource(10)), "served")
        crash = Crash(number)
        crash.agent = agent
        machine.kube.on_call = machine.kubelet.on_call = crash
        generation = machine.lay_out(AFTER)
        acknowledgement = asyncio.create_task(machine.acknowledged(generation))
        await asyncio.wait((agent, acknowledgement), return_when=asyncio.FIRST_COMPLETED)
        acknowledgement.cancel()
    machine.kube.on_call = machine.kubelet.on_call = lambda: None
    async with machine.agent():
        await machine.acknowledged(generation)
        assert machine.condition("Applied")["status"] == "True", (number, machine.status())
        assert machine.slices() == {held[0]: "Used", device(1, 60, 0): "Free"}, number
        await machine.until(
            lambda: machine.allocatable() == {resource(10): "1", resource(60): "1"}, "allocatable"
        )
        await machine.until(
            lambda: machine.kubelet.healthy(resource(60)) == {device(1, 60, 0)}, "the kubelet knows"
        )
        # The end of the dead agent's streams may cut off the new one's, which come back.
        await machine.until(
            lambda: machine.kubelet.healthy(resource(10)) == {held[0]}, "so is the held one"
        )
    return crash.happened


async def test_every_crash_point_ends_in_the_planned_layout(machine: Machine) -> None:
    async with machine.agent():
        await machine.applied(BEFORE)
        await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
    points = 0
    while await crash_at(machine, points + 1):
        points += 1
    assert points > 15
    assert machine.kubelet.panics == []
