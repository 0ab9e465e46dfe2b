"""From what is wanted of one GPU and what is observed there to the next thing to do. Pure.

The keeper takes one step, looks again and asks again; so a crash between any two steps, ours or a
daemon's, needs no case of its own.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final

from nodeagent.mps.records import MpsState, Wanted

_SOON: Final = 0.2  # seconds between two looks at a server that is starting or on its way out


@dataclass(frozen=True, slots=True)
class Policy:
    """What the supervisor was told. `user` is the uid that the servers serve.

    A daemon is asked how it is every `poll_seconds`. A server in FAULT, a hung daemon and a server
    that is starting are left to themselves for `grace_seconds`. Clients that are left when a GPU
    is handed back, though no slice is, have `quit_seconds`.
    """

    user: int
    exclusive: bool = True
    recover: bool = True
    poll_seconds: float = 10.0
    grace_seconds: float = 30.0
    quit_seconds: int = 5


class Daemon(Enum):
    """How the control daemon of a GPU fares."""

    ABSENT = auto()
    ALIVE = auto()
    HUNG = auto()


class ServerStatus(StrEnum):
    """What the daemon says of a server. UNKNOWN is all that drivers before 550 say."""

    INITIALIZING = "INITIALIZING"
    ACTIVE = "ACTIVE"
    FAULT = "FAULT"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Server:
    """An MPS server. `limit` in MiB is known when it was set and has been read back; `ready` is
    one that prints any.

    `clients` are known only where they matter: in FAULT, or when it serves another user.
    """

    pid: int
    uid: int | None
    status: ServerStatus = ServerStatus.UNKNOWN
    ready: bool = False
    limit: int | None = None
    clients: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """One GPU as it is found; seconds are how long it has been so.

    `marked`: the compute mode is ours to set back. `exclusive` is None where the driver cannot
    say or was not asked. `daemon` is the child of this container's reaper, `strays` are daemons of
    the same pipe directory that are not, as those of a container that is about to end. `left` are
    servers, and other parts of a daemon of this container, that have outlived it.
    """

    marked: bool = False
    exclusive: bool | None = None
    daemon: Daemon = Daemon.ABSENT
    strays: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    default_limit: int | None = None
    servers: tuple[Server, ...] = ()
    hung_seconds: float = 0.0
    fault_seconds: float = 0.0
    starting_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Note on disk, before it is done, that the compute mode is ours to set back."""


@dataclass(frozen=True, slots=True)
class Unmark:
    """It is set back."""


@dataclass(frozen=True, slots=True)
class SetComputeMode:
    """EXCLUSIVE_PROCESS, or else DEFAULT."""

    exclusive: bool


@dataclass(frozen=True, slots=True)
class StartDaemon:
    """Start the control daemon."""


@dataclass(frozen=True, slots=True)
class KillDaemon:
    """End a daemon that does not answer, by a signal."""


@dataclass(frozen=True, slots=True)
class QuitDaemon:
    """End the daemon in order."""


@dataclass(frozen=True, slots=True)
class EndStrays:
    """End daemons of another container, by a signal."""

    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EndServers:
    """End what has outlived its daemon, by a signal."""

    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StartServer:
    """Ask for a server of the MPS user."""


@dataclass(frozen=True, slots=True)
class ShutDownServer:
    """Let a server that has no clients end."""

    pid: int


@dataclass(frozen=True, slots=True)
class SetDefaultLimit:
    """The limit of servers to come."""

    mib: int


@dataclass(frozen=True, slots=True)
class SetServerLimit:
    """The limit of a server's clients to come."""

    server: int
    mib: int


@dataclass(frozen=True, slots=True)
class TerminateClients:
    """End clients that can do nothing more, so that their server leaves FAULT."""

    server: int
    clients: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do now; `state` None: the GPU is not held.

    Look again after so many seconds, None for the usual time.
    """

    state: MpsState | None
    message: str = ""
    again: float | None = None


Step = (
    Mark
    | Unmark
    | SetComputeMode
    | StartDaemon
    | KillDaemon
    | QuitDaemon
    | EndStrays
    | EndServers
    | StartServer
    | ShutDownServer
    | SetDefaultLimit
    | SetServerLimit
    | TerminateClients
    | Rest
)


def decide(wanted: Wanted | None, seen: Observed, policy: Policy) -> Step:
    """The next step for one GPU; `wanted` None hands it back.

    A daemon is ended only when its GPU is handed back, or when it hangs and nobody uses it. The
    compute mode is exclusive before a daemon starts, and set back once it has ended.
    """
    return _hand_back(seen) if wanted is None else _hold(wanted, seen, policy)


def _hand_back(seen: Observed) -> Step:
    match seen.daemon:
        case Daemon.ALIVE:
            return QuitDaemon()
        case Daemon.HUNG:
            return KillDaemon()
    if seen.strays:
        return EndStrays(seen.strays)
    if seen.left:
        return EndServers(seen.left)
    if seen.marked:
        return SetComputeMode(exclusive=False) if seen.exclusive else Unmark()
    return Rest(None)


def _hold(wanted: Wanted, seen: Observed, policy: Policy) -> Step:
    if policy.exclusive and not seen.marked:
        return Mark()
    if policy.exclusive and seen.exclusive is False:
        return SetComputeMode(exclusive=True)
    match seen.daemon:
        case Daemon.ABSENT if seen.strays and wanted.used:
            return Rest(MpsState.DOWN, _stray(seen.strays), _SOON * 5)
        case Daemon.ABSENT if seen.strays:
            return EndStrays(seen.strays)
        case Daemon.ABSENT:
            return EndServers(seen.left) if seen.left else StartDaemon()
        case Daemon.HUNG if not wanted.used and seen.hung_seconds >= policy.grace_seconds:
            return KillDaemon()
        case Daemon.HUNG:
            return Rest(MpsState.DOWN, _hung(wanted))
    if seen.default_limit != wanted.limit_mib:
        return SetDefaultLimit(wanted.limit_mib)
    return _serve(wanted, seen, policy)


def _hung(wanted: Wanted) -> str:
    why = "its slices are in use, so it is not ended" if wanted.used else "it will be ended"
    return f"the MPS control daemon does not answer; {why}"


def _stray(pids: tuple[int, ...]) -> str:
    return (
        f"an MPS control daemon of another container still runs (PID {', '.join(map(str, pids))}) "
        "and slices are in use, so it is not ended; wait until its container has ended"
    )


def _serve(wanted: Wanted, seen: Observed, policy: Policy) -> Step:
    if not seen.servers:
        return StartServer()
    foreign = next((s for s in seen.servers if s.uid not in (policy.user, None)), None)
    if foreign is not None:
        return _foreign(foreign, policy)
    server = seen.servers[-1]
    match server.status:
        case ServerStatus.INITIALIZING:
            return _starting(seen, policy)
        case ServerStatus.FAULT:
            return _fault(server, seen, policy)
    if not server.ready:
        # Before driver 550 that is the only sign that it starts. It may also be one that a client
        # made before there was a default limit.
        late = seen.starting_seconds >= policy.grace_seconds
        if server.status is not ServerStatus.ACTIVE and not late:
            return _starting(seen, policy)
    if server.limit != wanted.limit_mib:
        return SetServerLimit(server.pid, wanted.limit_mib)
    return Rest(MpsState.READY)


def _foreign(server: Server, policy: Policy) -> Step:
    if not server.clients:
        return ShutDownServer(server.pid)
    message = (
        f"an MPS server serves uid {server.uid} and not {policy.user}, because a process of that "
        f"user came first ({', '.join(map(str, server.clients[:5]))}); others wait until it ends"
    )
    return Rest(MpsState.WRONG_USER, message)


def _starting(seen: Observed, policy: Policy) -> Rest:
    if seen.starting_seconds < policy.grace_seconds:
        return Rest(MpsState.STARTING, "the MPS server is starting", _SOON)
    return Rest(MpsState.DOWN, f"the MPS server is not ready after {policy.grace_seconds:.0f} s")


def _fault(server: Server, seen: Observed, policy: Policy) -> Step:
    message = "the MPS server is in FAULT: its clients can do nothing more and new ones are refused"
    if not policy.recover:
        return Rest(MpsState.FAULT, f"{message}; it comes back when they have ended")
    left = policy.grace_seconds - seen.fault_seconds
    if left > 0:
        message = f"{message}; they are ended {policy.grace_seconds:.0f} s after it was found"
        return Rest(MpsState.FAULT, message, min(left, policy.poll_seconds))
    if server.clients:
        return TerminateClients(server.pid, server.clients)
    return Rest(MpsState.FAULT, f"{message}; none is left", _SOON * 5)
