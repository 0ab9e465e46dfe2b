"""The next step for one GPU, from what is wanted and what is found."""

from dataclasses import replace

import pytest

from nodeagent.mps.decision import (
    Daemon,
    EndServers,
    EndStrays,
    KillDaemon,
    Mark,
    Observed,
    Policy,
    QuitDaemon,
    Rest,
    Server,
    ServerStatus,
    SetComputeMode,
    SetDefaultLimit,
    SetServerLimit,
    ShutDownServer,
    StartDaemon,
    StartServer,
    TerminateClients,
    Unmark,
    decide,
)
from nodeagent.mps.records import MpsState, Wanted

POLICY = Policy(user=1000)
WANTED = Wanted(9533)
SERVER = Server(7, 1000, ServerStatus.ACTIVE, ready=True, limit=9533)
READY = Observed(
    marked=True,
    exclusive=True,
    daemon=Daemon.ALIVE,
    default_limit=9533,
    servers=(SERVER,),
)


def with_server(**fields: object) -> Observed:
    return replace(READY, servers=(replace(SERVER, **fields),))  # type: ignore[arg-type]


def test_gpu_that_is_as_wanted_rests() -> None:
    assert decide(WANTED, READY, POLICY) == Rest(MpsState.READY)


def test_mode_is_marked_before_it_is_set_and_set_before_the_daemon_starts() -> None:
    nothing = Observed(exclusive=False)
    assert decide(WANTED, nothing, POLICY) == Mark()
    marked = replace(nothing, marked=True)
    assert decide(WANTED, marked, POLICY) == SetComputeMode(exclusive=True)
    assert decide(WANTED, replace(marked, exclusive=True), POLICY) == StartDaemon()


def test_mode_is_neither_marked_nor_set_when_it_is_kept() -> None:
    keep = replace(POLICY, exclusive=False)
    assert decide(WANTED, Observed(exclusive=False), keep) == StartDaemon()


def test_default_limit_is_set_before_a_server_starts() -> None:
    fresh = replace(READY, default_limit=None, servers=())
    assert decide(WANTED, fresh, POLICY) == SetDefaultLimit(9533)
    assert decide(WANTED, replace(fresh, default_limit=9533), POLICY) == StartServer()


def test_running_server_gets_the_new_limit_too() -> None:
    larger = Wanted(19066)
    assert decide(larger, READY, POLICY) == SetDefaultLimit(19066)
    raised = replace(READY, default_limit=19066)
    assert decide(larger, raised, POLICY) == SetServerLimit(7, 19066)


def test_daemon_of_another_container_keeps_a_gpu_from_its_release() -> None:
    stray = replace(READY, daemon=Daemon.ABSENT, strays=(7,), left=(8,), servers=())
    assert decide(None, stray, POLICY) == EndStrays((7,))
    assert decide(WANTED, stray, POLICY) == EndStrays((7,))


def test_daemon_of_another_container_is_left_while_slices_are_in_use() -> None:
    stray = replace(READY, daemon=Daemon.ABSENT, strays=(7,), left=(8,), servers=())
    step = decide(replace(WANTED, used=True), stray, POLICY)
    assert isinstance(step, Rest)
    assert step.state is MpsState.DOWN


def test_servers_without_a_daemon_go_before_another_starts() -> None:
    left = replace(READY, daemon=Daemon.ABSENT, left=(7,), servers=())
    assert decide(WANTED, left, POLICY) == EndServers((7,))
    assert decide(None, left, POLICY) == EndServers((7,))


@pytest.mark.parametrize("status", [ServerStatus.INITIALIZING, ServerStatus.UNKNOWN])
def test_server_that_is_not_ready_is_starting_for_a_while(status: ServerStatus) -> None:
    seen = with_server(status=status, ready=False, limit=None)
    rest = decide(WANTED, seen, POLICY)
    assert isinstance(rest, Rest)
    assert rest.state is MpsState.STARTING


def test_server_that_initialises_for_too_long_is_down() -> None:
    seen = with_server(status=ServerStatus.INITIALIZING, ready=False, limit=None)
    rest = decide(WANTED, replace(seen, starting_seconds=31), POLICY)
    assert isinstance(rest, Rest)
    assert rest.state is MpsState.DOWN


@pytest.mark.parametrize(
    ("status", "seconds"), [(ServerStatus.ACTIVE, 0), (ServerStatus.UNKNOWN, 31)]
)
def test_server_from_before_there_was_a_limit_gets_one(
    status: ServerStatus, seconds: float
) -> None:
    """As a client makes that comes between a daemon's start and its default limit."""
    seen = replace(with_server(status=status, ready=False, limit=None), starting_seconds=seconds)
    assert decide(WANTED, seen, POLICY) == SetServerLimit(7, 9533)


def test_fault_is_told_first_and_its_clients_ended_after_the_grace() -> None:
    fault = with_server(status=ServerStatus.FAULT, clients=(8, 9))
    rest = decide(WANTED, replace(fault, fault_seconds=29), POLICY)
    assert isinstance(rest, Rest)
    assert (rest.state, rest.again) == (MpsState.FAULT, 1)
    late = replace(fault, fault_seconds=30)
    assert decide(WANTED, late, POLICY) == TerminateClients(7, (8, 9))
    rest = decide(WANTED, late, replace(POLICY, recover=False))
    assert isinstance(rest, Rest)
    assert rest.state is MpsState.FAULT


def test_server_of_another_user_ends_only_without_clients() -> None:
    idle = with_server(uid=0)
    assert decide(WANTED, idle, POLICY) == ShutDownServer(7)
    rest = decide(WANTED, with_server(uid=0, clients=(8,)), POLICY)
    assert isinstance(rest, Rest)
    assert rest.state is MpsState.WRONG_USER
    assert "uid 0" in rest.message


@pytest.mark.parametrize(("used", "seconds"), [(True, 1000), (False, 29)])
def test_hung_daemon_is_left_while_it_may_have_clients_or_come_back(
    used: bool, seconds: float
) -> None:
    hung = replace(READY, daemon=Daemon.HUNG, hung_seconds=seconds)
    rest = decide(Wanted(9533, used=used), hung, POLICY)
    assert isinstance(rest, Rest)
    assert rest.state is MpsState.DOWN


def test_hung_daemon_that_nobody_uses_is_killed() -> None:
    hung = replace(READY, daemon=Daemon.HUNG, hung_seconds=30)
    assert decide(WANTED, hung, POLICY) == KillDaemon()


def test_handing_back_ends_the_daemon_before_it_sets_the_mode_back() -> None:
    assert decide(None, READY, POLICY) == QuitDaemon()
    assert decide(None, replace(READY, daemon=Daemon.HUNG), POLICY) == KillDaemon()
    ended = replace(READY, daemon=Daemon.ABSENT, servers=())
    assert decide(None, ended, POLICY) == SetComputeMode(exclusive=False)
    assert decide(None, replace(ended, exclusive=False), POLICY) == Unmark()
    assert decide(None, Observed(), POLICY) == Rest(None)


def test_mode_that_is_not_ours_is_not_set_back() -> None:
    """An administrator may have set it before."""
    assert decide(None, Observed(exclusive=True), POLICY) == Rest(None)


def test_lost_gpu_is_handed_back_without_its_mode() -> None:
    assert decide(None, Observed(marked=True, exclusive=None), POLICY) == Unmark()
