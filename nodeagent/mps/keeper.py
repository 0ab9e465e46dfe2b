"""Keeps the daemon of one GPU as it is wanted: looks, takes the step that is decided, looks again.

One task per GPU makes every call to its daemon, so that calls are serialised by construction.
"""

import asyncio
import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from mpslice.gpus import GpuUuid
from mpslice.kube.reflector import Backoff
from nodeagent.errors import AgentError
from nodeagent.hardware import ComputeModes
from nodeagent.mps import decision, pipes
from nodeagent.mps.answers import end_of_daemon
from nodeagent.mps.control import CALL_SECONDS, ControlProgram
from nodeagent.mps.daemons import Daemons
from nodeagent.mps.decision import Daemon, Policy, Rest, Step, decide
from nodeagent.mps.errors import DaemonDidNotStart, NoDaemon, Refused
from nodeagent.mps.exits import Exits, signal_process
from nodeagent.mps.logs import bound_logs, last_complaint
from nodeagent.mps.observer import Observer
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.records import (
    MpsState,
    Status,
    Wanted,
    remove_record,
    seconds_since_boot,
    write_record,
)
from nodeagent.pulse import Pulse

_FIRST_RETRY: Final = 0.2  # seconds
_LONGEST_RETRY: Final = 30.0
_MOST_STEPS: Final = 50
"""Of one go. Something that undoes each step in a new way, as processes can that pass themselves
off as servers, is told of and not fought for ever."""
_START: Final = 15.0  # seconds that a daemon has to listen
_STOPPED: Final = 5.0  # seconds that a process has to end after a signal
_PAUSE: Final = 0.02

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tools:
    """What every keeper of a supervisor works with; `shm` names the /dev/shm of its servers.

    A call of the control program has `call_seconds`.
    """

    root: MpsRoot
    policy: Policy
    modes: ComputeModes
    daemons: Daemons
    program: str
    environment: dict[str, str]
    shm: str = ""
    call_seconds: float = CALL_SECONDS

    def control(self, gpu: GpuUuid) -> ControlProgram:
        pipe, log_directory = self.root.pipe(gpu), self.root.log(gpu)
        return ControlProgram(
            pipe,
            log_directory,
            program=self.program,
            environment=self.environment,
            deadline=self.call_seconds,
        )


class Keeper:
    """`run` until the GPU is handed back; `want` may be called at any time.

    `said` is what an earlier supervisor published of the GPU, None when it held none.
    """

    def __init__(
        self, gpu: GpuUuid, wanted: Wanted | None, tools: Tools, said: Status | None
    ) -> None:
        self._gpu = gpu
        self._wanted = wanted
        self._tools = tools
        self._control = tools.control(gpu)
        self._observer = Observer(
            gpu, tools.root, tools.modes, self._control, tools.daemons, tools.policy.user
        )
        self._wake = Pulse()
        self._exits = Exits(self._wake.beat)
        self._restarts = said.restarts if said else 0
        self._had_daemon = said is not None
        self._started = False  # a daemon, which has not answered yet
        self._was_ready = said is not None and said.state is not MpsState.STARTING
        self._fulfilled = Wanted(0)
        self._sealed: int | None = None  # the daemon whose socket has its second name

    def want(self, wanted: Wanted | None) -> None:
        """What is wanted from now on; None hands the GPU back."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._wake.beat()

    async def run(self) -> None:
        """Returns once nothing of the GPU is held any more, and nothing is wanted."""
        backoff = Backoff(first=_FIRST_RETRY, longest=_LONGEST_RETRY)
        try:
            while True:
                seen, wanted = self._wake.count, self._wanted
                try:
                    rest = await self._converge(wanted)
                    backoff.reset()
                except (AgentError, OSError) as error:
                    rest = Rest(MpsState.DOWN, str(error), backoff.delay())
                    log.warning("MPS: %s", error, extra={"gpu": self._gpu})
                again = self._tools.policy.poll_seconds if rest.again is None else rest.again
                try:
                    if rest.state is None and self._wanted is None:
                        await asyncio.to_thread(pipes.take_away, self._tools.root.pipe(self._gpu))
                        await asyncio.to_thread(remove_record, self._tools.root.status, self._gpu)
                        return
                    await self._publish(rest, wanted)
                except OSError as error:  # a full disk; the daemon is kept all the same
                    log.error("MPS: %s", error, extra={"gpu": self._gpu})
                await self._wake.within(seen, again)
        finally:
            self._exits.watch(())
            self._observer.close()

    async def _converge(self, wanted: Wanted | None) -> Rest:
        """Takes steps until there is none left; raises AgentError or OSError for one that failed.

        A step that comes up a second time has failed, or something undoes it; both are for later.
        """
        taken: set[Step] = set()
        # A limit that changed is set and read back by its own step.
        full = wanted is not None and wanted.check != self._fulfilled.check
        while True:
            seen = await self._observer.look(
                exclusive=self._tools.policy.exclusive, holding=wanted is not None, full=full
            )
            if self._started and seen.daemon is Daemon.ALIVE:
                self._restarts += self._had_daemon
                self._started, self._had_daemon = False, True
            observer = self._observer
            daemon = observer.strays if observer.daemon is None else (observer.daemon,)
            self._exits.watch((*daemon, *(server.pid for server in observer.servers)))
            if observer.daemon not in (None, self._sealed):
                await self._seal()
            step = decide(wanted, seen, self._tools.policy)
            if isinstance(step, Rest):
                return step
            if step in taken or len(taken) >= _MOST_STEPS:
                raise Refused(await self._no_effect(step))
            log.info("MPS: %s", step, extra={"gpu": self._gpu})
            await self._act(step)
            taken.add(step)
            full = False

    async def _no_effect(self, step: Step) -> str:
        complaint = await asyncio.to_thread(last_complaint, self._tools.root.log(self._gpu))
        why = f": {complaint}" if complaint else ""
        return f"{_in_vain(step)}{why}"

    async def _publish(self, rest: Rest, wanted: Wanted | None) -> None:
        state = MpsState.STOPPING if wanted is None or rest.state is None else rest.state
        if state is MpsState.STARTING and self._was_ready:
            state = MpsState.DOWN
        if wanted is not None and state is MpsState.READY:
            self._was_ready, self._fulfilled = True, wanted
        status = Status(
            state,
            message=rest.message,
            limit_mib=self._fulfilled.limit_mib,
            check=self._fulfilled.check,
            restarts=self._restarts,
            at=seconds_since_boot(),
            shm=self._tools.shm,
        )
        await asyncio.to_thread(write_record, self._tools.root.status, self._gpu, status)
        await asyncio.to_thread(bound_logs, self._tools.root.log(self._gpu))

    # Acting.

    async def _act(self, step: Step) -> None:
        match step:
            case decision.Mark():
                await asyncio.to_thread(_touch, self._tools.root.exclusive(self._gpu))
            case decision.Unmark():
                await asyncio.to_thread(self._tools.root.exclusive(self._gpu).unlink)
            case decision.SetComputeMode(exclusive):
                await self._tools.modes.set_exclusive(self._gpu, exclusive=exclusive)
            case decision.StartDaemon():
                await self._start_daemon()
            case decision.QuitDaemon():
                await self._quit()
            case decision.KillDaemon():
                await self._kill_daemon()
            case decision.EndStrays(pids) | decision.EndServers(pids):
                await asyncio.gather(*(_end(pid) for pid in pids))
            case decision.StartServer():
                await self._control.start_server(self._tools.policy.user)
            case decision.ShutDownServer(pid):
                await self._control.shut_down_server(pid)
            case decision.SetDefaultLimit(mib):
                printed = await self._control.set_default_limit(mib)
                self._observer.default_was_set(mib, printed)
            case decision.SetServerLimit(server, mib):
                printed = await self._control.set_server_limit(server, mib)
                self._observer.server_was_set(server, mib, printed)
            case decision.TerminateClients(server, clients):
                await self._terminate(server, clients)

    async def _start_daemon(self) -> None:
        root, daemons = self._tools.root, self._tools.daemons
        await asyncio.to_thread(pipes.provide, root.pipe(self._gpu), root.sealed(self._gpu))
        await asyncio.to_thread(_make_log_directory, root.log(self._gpu))
        await asyncio.to_thread(daemons.start, self._gpu)
        self._started = True
        await self._until_it_answers()

    async def _seal(self) -> None:
        root = self._tools.root
        await asyncio.to_thread(pipes.seal, root.pipe(self._gpu), root.sealed(self._gpu))
        self._sealed = self._observer.daemon

    async def _until_it_answers(self) -> None:
        until = monotonic() + _START
        while True:
            try:
                await self._control.servers()
                return
            except NoDaemon:
                roll = await asyncio.to_thread(self._tools.daemons.roll)
            if self._gpu not in roll.living:
                why = end_of_daemon(roll.ended.get(self._gpu, 0))
                complaint = await asyncio.to_thread(last_complaint, self._tools.root.log(self._gpu))
                raise DaemonDidNotStart(f"the MPS control daemon did not start: {complaint or why}")
            if monotonic() > until:
                raise DaemonDidNotStart(
                    f"the MPS control daemon does not listen {_START:.0f} s after its start"
                )
            await asyncio.sleep(_PAUSE)

    async def _quit(self) -> None:
        daemon = self._observer.daemon
        try:
            await self._control.quit(self._tools.policy.quit_seconds)
        except NoDaemon:
            return
        if daemon is not None:
            await _gone(daemon)

    async def _kill_daemon(self) -> None:
        await asyncio.to_thread(self._tools.daemons.kill, self._gpu, signal.SIGKILL)
        if self._observer.daemon is not None:
            await _gone(self._observer.daemon)

    async def _terminate(self, server: int, clients: tuple[int, ...]) -> None:
        for client in clients:
            done = await self._control.terminate_client(server, client)
            log.warning(
                "an MPS client is ended, because its server is in FAULT",
                extra={"gpu": self._gpu, "client": client, "done": done},
            )


def _in_vain(step: Step) -> str:
    """What is the matter when a step does not bring about what it is for."""
    match step:
        case decision.StartDaemon():
            return "the MPS control daemon does not stay"
        case decision.QuitDaemon() | decision.KillDaemon():
            return "the MPS control daemon has not ended yet"
        case decision.StartServer():
            return "the MPS server does not stay"
        case decision.ShutDownServer(pid):
            return f"the MPS server {pid} has not ended yet"
        case decision.EndStrays(pids):
            return f"MPS daemons of another container have not ended yet: {_list(pids)}"
        case decision.EndServers(pids):
            return f"MPS servers without a daemon have not ended yet: {_list(pids)}"
        case decision.SetDefaultLimit(mib) | decision.SetServerLimit(mib=mib):
            return f"the memory limit of {mib} MiB does not read back"
        case decision.SetComputeMode():
            return "the compute mode does not stay as it is set; see who else sets it"
        case decision.TerminateClients(clients=clients):
            return f"MPS clients have not ended yet: {_list(clients)}"
    return f"{type(step).__name__} has had no effect"


def _list(pids: tuple[int, ...]) -> str:
    return ", ".join(map(str, pids))


def _touch(path: Path) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.touch()


def _make_log_directory(directory: Path) -> None:
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory.chmod(0o755)  # a server takes on its client's user


async def _end(pid: int, first: signal.Signals = signal.SIGTERM) -> None:
    """Ends a process, in good order if it can; returns when it is gone or nothing helps."""
    for number in (first, signal.SIGKILL):
        if not signal_process(pid, number) or await _gone(pid):
            return


async def _gone(pid: int) -> bool:
    """Whether a process has ended within _STOPPED seconds; a zombie has."""
    until = monotonic() + _STOPPED
    while monotonic() < until:
        if await asyncio.to_thread(_has_ended, pid):
            return True
        await asyncio.sleep(_PAUSE)
    return False


def _has_ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
