"""Some runs, and that broken programs break them; `make simulate` plays thousands."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS, Resource
from mpslice.kube.errors import Unreachable
from mpslice.kube.reflector import Reflector
from nodeagent.cluster.node import NodeStatus
from planner.controller import Controller
from planner.writes.writer import Writer
from tests.api.kube import Call
from tests.simulation.network import Client
from tests.simulation.run import play
from tests.simulation.script import Arrival, Kind, Script, Trouble, script_of
from tests.simulation.shrink import shrunk

_RUNS = 60
_AT_ONCE = 6


@pytest.mark.parametrize("first", range(0, _RUNS, _AT_ONCE))
def test_no_invariant_is_broken(first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        outcome = play(script_of(seed))
        again = f"python -m tests.simulation --seed {seed}"
        assert not outcome.problems, f"{outcome.problems[0]}\nReplay it: {again}"


def test_run_is_the_same_in_another_process_with_other_hashes() -> None:
    script = next(s for s in map(script_of, range(100)) if s.planners == 2 and s.troubles)
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(script.seed)]
    told = subprocess.run(
        command,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert told.stdout.strip().endswith(play(script).digest)


def a_script(*troubles: Trouble, pods: int = 2) -> Script:
    """One GPU of 40 gb, and pods of 10 gb that come a second apart."""
    arrivals = tuple(
        Arrival(at=1.0 + n, name=f"p{n}", sizes=(10,), seconds=1e6) for n in range(pods)
    )
    return Script(1, ((40,),), arrivals, troubles)


FORGETTING = (Trouble(5.0, Kind.AWAY, 3.0), Trouble(6.0, Kind.FORCED, 0.1))
"""A pod goes while no watch can tell of it."""


def keep_what_is_gone(reflector: Reflector[Any], listed: Mapping[str, Any]) -> None:
    for key, projected in listed.items():
        reflector._put(key, projected)


def test_failing_script_is_shrunk_to_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reflector, "_replace", keep_what_is_gone)
    others = (Trouble(0.5, Kind.SLOW, 0.5), Trouble(9.0, Kind.AGENT_STOPPED, 0.5))
    script, outcome = shrunk(a_script(*others, *FORGETTING))
    assert script.troubles == FORGETTING
    assert len(script.arrivals) == 1
    assert "planner 0 sees" in outcome.problems[0]


def without_every_fifth_update(resource: Resource) -> Callable[..., None]:
    """What of ours puts into its copies, where it leaves out an update of the resource at times."""
    updates: Counter[Reflector[Any]] = Counter()
    put = Reflector._put

    def leave_out(reflector: Reflector[Any], key: str, new: Any) -> None:
        is_update = new is not None and key in reflector.objects
        ours = cast(Client, reflector._kube).name.startswith(("planner", "agent"))
        if ours and is_update and reflector.resource == resource:
            updates[reflector] += 1
            if updates[reflector] % 5 == 0:
                return
        put(reflector, key, new)

    return leave_out


@pytest.mark.parametrize("resource", [PODS, NODES, NODE_LAYOUTS])
def test_copy_that_is_stale_is_found(monkeypatch: pytest.MonkeyPatch, resource: Resource) -> None:
    monkeypatch.setattr(Reflector, "_put", without_every_fifth_update(resource))
    problems = (problem for seed in range(100) for problem in play(script_of(seed)).problems)
    assert any(f" sees {resource.plural}/" in problem for problem in problems)


def test_planner_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "submit", lambda *_: None)
    assert "fits n0 and is not bound" in play(a_script()).problems[0]


def test_planner_that_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("as no planner should")

    monkeypatch.setattr(Controller, "_act", fail)
    assert "as no planner should" in play(a_script()).problems[0]


def test_what_a_clock_that_was_behind_put_off_is_done_once_it_is_right() -> None:
    """A pod that finds no room is told so two seconds later, and nothing else comes."""
    arrivals = (
        Arrival(at=1.0, name="first", sizes=(40,), seconds=1e6),
        Arrival(at=6.0, name="second", sizes=(40,), seconds=1e6),
    )
    behind = Trouble(5.0, Kind.PLANNER_BEHIND, 10.0)
    assert not play(Script(1, ((40,),), arrivals, (behind,))).problems


def while_a_slice_goes(milliseconds: int, seed: int) -> Script:
    """A free slice has to go for `large`, and so much later a pod comes that it would suit; long
    after the start, so nothing is postponed."""
    arrivals = (
        Arrival(at=1.0, name="first", sizes=(40,), seconds=0.5),
        Arrival(at=75.0, name="large", sizes=(20,), seconds=20.0, priority=5),
        Arrival(at=75.0 + milliseconds / 1000, name="late", sizes=(40,), seconds=20.0, gated=False),
    )
    return Script(seed, ((40,),), arrivals, ())


def test_pod_finds_no_slice_that_went_before_the_scheduler_followed_again() -> None:
    """Two outages make the scheduler wait long before it follows again. The free 5gb goes in the
    second one, for `second`; `late` came in between, and has no place then."""
    arrivals = (
        Arrival(at=3.0, name="first", sizes=(20,), seconds=1e6),
        Arrival(at=6.0, name="brief", sizes=(5,), seconds=2.0),
        Arrival(at=13.536, name="second", sizes=(20,), seconds=1e6, gated=False),
        Arrival(at=24.0, name="late", sizes=(5,), seconds=20.0),
    )
    away = Trouble(13.54, Kind.AWAY, 40.0), Trouble(56.0, Kind.AWAY, 40.0)
    for seed in range(20):
        assert not play(Script(seed, ((40,),), arrivals, away)).problems


def test_pod_keeps_its_gate_while_the_planners_writes_tell_that_the_api_server_is_in_trouble() -> (
    None
):
    """The planner follows at once again after a moment's outage, the scheduler fails much longer.

    The 40gb slice goes meanwhile, and `late` has no place: the scheduler would see that slice yet.
    In other runs none of the planner's requests fails, and it cannot know.
    """
    arrivals = (
        Arrival(at=5.3, name="brief", sizes=(10,), seconds=2.0, gated=False),
        Arrival(at=10.3, name="first", sizes=(20,), seconds=5.0),
        Arrival(at=16.2, name="whole", sizes=(40,), seconds=0.5),
        Arrival(at=26.2, name="second", sizes=(33,), seconds=0.5, priority=5),
        Arrival(at=35.6, name="late", sizes=(40,), seconds=2.0),
    )
    troubles = Trouble(17.5, Kind.BROKEN, 12.0), Trouble(18.2, Kind.AWAY, 0.05)
    for seed in (50, 63, 65, 67, 189, 196):
        assert not play(Script(seed, ((40,),), arrivals, troubles)).problems


def test_planner_that_starts_knows_that_the_scheduler_is_behind_an_outage_before_its_time() -> None:
    """The 40gb on n0 goes for `here` after the outage, and the planner dies; the scheduler sees it
    yet when the next planner opens the gate of `late`, which is to go to n1."""
    arrivals = (
        Arrival(at=1.0, name="first", sizes=(40,), seconds=5.0),
        Arrival(at=30.0, name="here", sizes=(33,), seconds=1e6, node="n0"),
        Arrival(at=30.8, name="late", sizes=(40,), seconds=2.0),
    )
    troubles = Trouble(12.5, Kind.AWAY, 12.0), Trouble(30.6, Kind.PLANNER_KILLED, 0.5)
    for seed in (4, 17, 20, 26, 32, 42):
        assert not play(Script(seed, ((40,), (80,)), arrivals, troubles)).problems


WITHDRAWALS = [while_a_slice_goes(ms, seed) for seed in (8, 9, 10) for ms in range(0, 100, 10)]


def test_pods_that_come_while_a_slice_goes_find_one_though_the_kubelet_opens_the_node() -> None:
    assert not [problem for script in WITHDRAWALS for problem in play(script).problems]


def test_withdrawal_that_does_not_look_at_the_node_again_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing(_: NodeStatus) -> None: ...

    monkeypatch.setattr(NodeStatus, "is_open", lambda _: False)
    monkeypatch.setattr(NodeStatus, "read", nothing)
    found = (play(script).problems for script in WITHDRAWALS)
    assert "late was bound to a slice that n0 has not got" in next(filter(None, found))[0]


def test_writes_that_fail_again_and_again_without_a_rest_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(kube: Client, _action: object) -> None:
        await kube.before(Call("patch", PODS, "p0"))
        raise Unreachable("connection reset")

    def at_once(writer: Writer, _key: object) -> None:
        writer._again()

    monkeypatch.setattr("planner.controller.perform", fail)
    monkeypatch.setattr(Writer, "_let_rest", at_once)
    problem = play(a_script()).problems[0]
    assert "planner 0 has sent 80 writes within a second" in problem
