"""The faults: each with how it is done and how it is undone, by its name."""

import asyncio
import errno
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from hack.cluster.errors import ClusterError
from hack.cluster.processes import Program
from mpslice.kube.api import NODES, Json
from mpslice.kube.errors import Conflict, KubeError, NotFound
from tests.faults.proxy import Trouble
from tests.faults.stand import CRD, DEFINITIONS, NodeParts, Stand, send, start_again
from tests.waiting import eventually

Act = Callable[[Stand, int], Awaitable[None]]
"""On the stand; the number chooses among several planners or nodes."""

_BINDING: Final = 10.0  # seconds from a scheduler's look at a node's status to the admission
_ADOPTED: Final = 5.0  # seconds in which an agent that is back has registered every size
_SHIFT: Final = 600  # seconds by which a clock is wrong
_FILLER: Final = "filler"
_CLOCK: Final = (0.5, 3.0, 8.0)
_BRIEF: Final = (0.05, 0.5, 3.0)
_BY_SERVER: Final = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")


@dataclass(frozen=True, slots=True)
class Fault:
    """`seconds` are those that it may last; one is drawn."""

    name: str
    begin: Act
    end: Act
    seconds: tuple[float, ...] = _BRIEF


def _node(stand: Stand, target: int) -> NodeParts:
    return stand.nodes[target % len(stand.nodes)]


# Processes.


async def _kill_planner(stand: Stand, target: int) -> None:
    await asyncio.to_thread(stand.planners[target % 2].kill)


async def _start_planner(stand: Stand, target: int) -> None:
    await start_again(stand.planners[target % 2])


async def _signal_planner(stand: Stand, target: int, *, number: signal.Signals) -> None:
    send(stand.planners[target % 2], number)


async def _pause_leader(stand: Stand, target: int) -> None:
    stand.paused[target] = await stand.leader()
    send(stand.paused[target], signal.SIGSTOP)


async def _resume_leader(stand: Stand, target: int) -> None:
    send(stand.paused.pop(target), signal.SIGCONT)


async def _kill_webhook(stand: Stand, _target: int) -> None:
    await asyncio.to_thread(stand.webhook.kill)


async def _start_webhook(stand: Stand, _target: int) -> None:
    await start_again(stand.webhook)


async def _signal_webhook(stand: Stand, _target: int, *, number: signal.Signals) -> None:
    send(stand.webhook, number)


async def _kill_agent(stand: Stand, target: int) -> None:
    node = _node(stand, target)
    node.kubelet.away += 1
    await asyncio.to_thread(node.agent.kill)


async def _stop_agent(stand: Stand, target: int) -> None:
    node = _node(stand, target)
    node.kubelet.away += 1
    await asyncio.to_thread(node.agent.stop)


async def _start_agent(stand: Stand, target: int) -> None:
    node = _node(stand, target)
    await start_again(node.agent)
    node.kubelet.away -= 1
    node.kubelet.excuse(_ADOPTED)


async def _signal_agent(stand: Stand, target: int, *, number: signal.Signals) -> None:
    send(_node(stand, target).agent, number)


async def _kill_server(stand: Stand, _target: int) -> None:
    await asyncio.to_thread(stand.apiserver.kill)


async def _start_server(stand: Stand, _target: int) -> None:
    await start_again(stand.apiserver)


async def _signal_server(stand: Stand, _target: int, *, number: signal.Signals) -> None:
    send(stand.apiserver, number)


async def _kill_etcd(stand: Stand, _target: int) -> None:
    await asyncio.to_thread(stand.etcd.kill)


async def _start_etcd(stand: Stand, _target: int) -> None:
    await start_again(stand.etcd)


# Their clocks.


def _clocks(whose: str, program: Callable[[Stand, int], Program]) -> tuple[Fault, Fault]:
    """A clock is put forward or back, and right again."""

    async def put(stand: Stand, target: int, *, seconds: int) -> None:
        stand.clocks[program(stand, target).name].put_forward(seconds)

    forward, back = (partial(put, seconds=seconds) for seconds in (_SHIFT, -_SHIFT))
    return (
        Fault(f"{whose} clock is 10 minutes ahead", forward, back, _CLOCK),
        Fault(f"{whose} clock is 10 minutes behind", back, forward, _CLOCK),
    )


# MPS.


async def _kill_supervisor(stand: Stand, _target: int) -> None:
    """Its first process starts it again, and its daemons live on."""
    for mps in stand.supervised:
        stand.daemons[mps.program.name] = mps.daemons()
        if pid := mps.supervisor:
            os.kill(pid, signal.SIGKILL)


async def _pause_supervisor(stand: Stand, _target: int) -> None:
    for mps in stand.supervised:
        stand.daemons[mps.program.name] = mps.daemons()
        if pid := mps.supervisor:
            os.kill(pid, signal.SIGSTOP)


async def _resume_supervisor(stand: Stand, target: int) -> None:
    for mps in stand.supervised:
        if pid := mps.supervisor:
            os.kill(pid, signal.SIGCONT)
    await _look_at_daemons(stand, target)


async def _look_at_daemons(stand: Stand, _target: int) -> None:
    for mps in stand.supervised:
        if ended := mps.ended(stand.daemons[mps.program.name]):
            stand.problem(f"MPS daemons {set(ended)} have ended with their supervisor")


async def _kill_container(stand: Stand, _target: int) -> None:
    for node in stand.nodes:
        if node.mps is not None:
            node.kubelet.away += 1
            stand.daemons[node.mps.program.name] = frozenset()
            await asyncio.to_thread(node.mps.kill)


async def _start_container(stand: Stand, _target: int) -> None:
    for node in stand.nodes:
        if node.mps is not None:
            await start_again(node.mps.program)
            node.kubelet.away -= 1
            node.kubelet.excuse(_BINDING)


# The way to the API server.


async def _begin_trouble(stand: Stand, _target: int, *, trouble: Trouble) -> None:
    stand.proxy.begin(trouble)


async def _end_trouble(stand: Stand, _target: int, *, trouble: Trouble) -> None:
    stand.proxy.end(trouble)


def _of_proxy(trouble: Trouble) -> Fault:
    begin, end = (partial(act, trouble=trouble) for act in (_begin_trouble, _end_trouble))
    return Fault(trouble, begin, end, (0.5, 3.0, 6.0))


def _paused(name: str, signals: Callable[..., Awaitable[None]]) -> Fault:
    stop, go = (partial(signals, number=n) for n in (signal.SIGSTOP, signal.SIGCONT))
    return Fault(name, stop, go)


# Objects.


async def _insist(request: Callable[[], Awaitable[object]], what: str) -> None:
    """Asks until it is done; a Conflict or NotFound says that it is."""

    async def done() -> bool:
        try:
            await request()
        except (Conflict, NotFound):
            return True
        except (KubeError, ClusterError):
            return False
        return True

    await eventually(done, what, every=0.2)


async def _delete_node(stand: Stand, target: int) -> None:
    name = _node(stand, target).name
    await _insist(lambda: stand.kube.delete(NODES, name), f"node {name} is deleted")


async def _make_node(stand: Stand, target: int) -> None:
    node = _node(stand, target)
    await stand.add_node(node.name)
    await _insist(lambda: stand.renew_token(node.name), f"node {node.name} has a token")
    await start_again(node.agent)  # a node that is not there ends it
    await _insist(node.kubelet.show, f"the kubelet shows {node.name}")


async def _delete_definition(stand: Stand, _target: int) -> None:
    await _insist(lambda: stand.kube.delete(DEFINITIONS, CRD), "the CRD is deleted")


async def _make_definition(stand: Stand, _target: int) -> None:
    metadata = stand.definition["metadata"]
    kept = {key: value for key, value in metadata.items() if key not in _BY_SERVER}
    body: Json = {**stand.definition, "metadata": kept}
    body.pop("status", None)

    async def made() -> bool:
        try:
            there = await stand.kube.read(DEFINITIONS, CRD)
            return "deletionTimestamp" not in there["metadata"]
        except NotFound:
            await stand.kube.create(DEFINITIONS, body)
            return True

    async def tried() -> bool:
        try:
            return await made()
        except KubeError:
            return False

    await eventually(tried, "the CRD is made again", every=0.2)


# Machines.


def _simulated(stand: Stand) -> NodeParts:
    return next(node for node in stand.nodes if node.mps is None)


async def _change_gpu(stand: Stand, _target: int, *, first: str) -> None:
    node = _simulated(stand)
    node.kubelet.away += first != "well"
    node.write_gpus(first=first)


async def _mend_gpu(stand: Stand, _target: int) -> None:
    node = _simulated(stand)
    node.write_gpus()
    node.kubelet.away -= 1
    node.kubelet.excuse(_BINDING)


async def _fill_disk(stand: Stand, target: int) -> None:
    with (_node(stand, target).disk / _FILLER).open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


async def _free_disk(stand: Stand, target: int) -> None:
    (_node(stand, target).disk / _FILLER).unlink(missing_ok=True)


FAULTS: Final = (
    Fault("a planner is killed", _kill_planner, _start_planner),
    _paused("a planner is paused", _signal_planner),
    Fault("the leader is paused past its lease", _pause_leader, _resume_leader, (10.0, 12.0)),
    Fault("the webhook is killed", _kill_webhook, _start_webhook),
    _paused("the webhook is paused", _signal_webhook),
    Fault("an agent is killed", _kill_agent, _start_agent),
    Fault("an agent is stopped", _stop_agent, _start_agent),
    _paused("an agent is paused", _signal_agent),
    Fault("the supervisor of MPS is killed", _kill_supervisor, _look_at_daemons),
    Fault("the supervisor of MPS is paused", _pause_supervisor, _resume_supervisor),
    Fault("the container of MPS is killed", _kill_container, _start_container),
    Fault("the API server is killed", _kill_server, _start_server),
    _paused("the API server is paused", _signal_server),
    Fault("etcd is killed", _kill_etcd, _start_etcd),
    *_clocks("a planner's", lambda stand, target: stand.planners[target % 2]),
    *_clocks("the webhook's", lambda stand, _target: stand.webhook),
    *_clocks("an agent's", lambda stand, target: _node(stand, target).agent),
    *(_of_proxy(trouble) for trouble in Trouble),
    Fault("a node is deleted", _delete_node, _make_node),
    Fault("the CRD is deleted", _delete_definition, _make_definition),
    Fault("a GPU is lost", partial(_change_gpu, first="lost"), _mend_gpu, (0.5, 3.0, 8.0)),
    Fault("a GPU is unhealthy", partial(_change_gpu, first="sick"), _mend_gpu, (0.5, 3.0, 8.0)),
    Fault("a disk is full", _fill_disk, _free_disk, (0.5, 3.0, 8.0)),
)
