"""Finds out how one GPU's daemon fares, with as few calls as serve the purpose.

What the control program prints of a limit is rounded, so what was set is remembered here for as
long as that daemon, or that server, lives.
"""

import asyncio
import os
import select
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final

from mpslice.gpus import GpuUuid
from nodeagent.errors import NvmlError
from nodeagent.hardware import ComputeModes
from nodeagent.mps.answers import printed_limit
from nodeagent.mps.control import ControlProgram
from nodeagent.mps.daemons import Daemons
from nodeagent.mps.decision import Daemon, Observed, Server, ServerStatus
from nodeagent.mps.errors import ControlHung
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.processes import daemons_at, is_within, servers_left, uid_of

FULL_SECONDS: Final = 60.0
"""How often the settings are read back; between that only the servers are asked after."""


@dataclass(slots=True)
class _Since:
    """Since when something has been so, on the monotonic clock."""

    _at: float | None = None

    def seconds(self, *, now_so: bool) -> float:
        if not now_so:
            self._at = None
        elif self._at is None:
            self._at = monotonic()
        return 0.0 if self._at is None else monotonic() - self._at


@dataclass(slots=True)
class Observer:
    """`look` is called by one task only. `daemon` is the control daemon found last, `strays` those
    that are no children of the reaper."""

    gpu: GpuUuid
    root: MpsRoot
    modes: ComputeModes
    control: ControlProgram
    daemons: Daemons
    user: int
    daemon: int | None = field(default=None, init=False)
    strays: tuple[int, ...] = field(default=(), init=False)
    servers: tuple[Server, ...] = field(default=(), init=False)
    _handle: int | None = field(default=None, init=False)  # of the daemon, see pidfd_open(2)
    _limits: dict[int, int] = field(default_factory=dict, init=False)
    _default: str = field(default="", init=False)
    _full_at: float = field(default=float("-inf"), init=False)
    _hung: _Since = field(default_factory=_Since, init=False)
    _fault: _Since = field(default_factory=_Since, init=False)
    _starting: _Since = field(default_factory=_Since, init=False)

    async def look(self, *, exclusive: bool, holding: bool, full: bool) -> Observed:
        """How things are, as far as it matters to a GPU that is held, or handed back.

        `exclusive`: the compute mode is to be. `full` reads every setting back, else only what
        passes by itself.

        Raises AgentError or OSError when it cannot be found out.
        """
        seen = await asyncio.to_thread(self._processes)
        # What is handed back is ended first, whatever the driver says of the GPU.
        ended = seen.daemon is Daemon.ABSENT and not seen.strays and not seen.left
        if (exclusive and holding) or (seen.marked and not holding and ended):
            seen = replace(seen, exclusive=await self._is_exclusive(seen))
        if seen.daemon is Daemon.ABSENT:
            self.servers, self._limits, self._default = (), {}, ""
            return seen
        try:
            if not holding:
                await self.control.servers()
                return seen
            return await self._ask(seen, full=full)
        except ControlHung:
            return replace(seen, daemon=Daemon.HUNG, hung_seconds=self._hung.seconds(now_so=True))

    def default_was_set(self, mib: int, printed: str) -> None:
        """The daemon was just given a limit, which reads back so."""
        self._limits[self.daemon or 0] = mib
        self._default = printed

    def server_was_set(self, pid: int, mib: int, printed: str) -> None:
        """A server was."""
        self._limits[pid] = mib
        limit = self._confirmed(pid, printed)
        self.servers = tuple(
            replace(server, ready=bool(printed), limit=limit) if server.pid == pid else server
            for server in self.servers
        )

    async def _is_exclusive(self, seen: Observed) -> bool | None:
        """None where the driver does not say; a daemon that runs does not depend on it."""
        try:
            return await self.modes.is_exclusive(self.gpu)
        except NvmlError:
            if seen.daemon is Daemon.ABSENT:
                raise
            return None

    def _processes(self) -> Observed:
        pipe = self.root.pipe(self.gpu)
        marked = self.root.exclusive(self.gpu).exists()
        if self._is_alive():
            return Observed(marked=marked, daemon=Daemon.ALIVE)
        roll = self.daemons.roll()
        if (pid := roll.living.get(self.gpu)) is not None:
            self._follow(pid)
            roll = self.daemons.roll()  # a PID that ended before it was followed may be another's
        self.daemon = roll.living.get(self.gpu)
        if self.daemon is not None:
            self.strays = ()
            return Observed(marked=marked, daemon=Daemon.ALIVE)
        self.close()
        found = daemons_at(pipe)
        self.strays = tuple(pid for pid in found if not is_within(pid, roll.reaper))
        parts = tuple(pid for pid in found if pid not in self.strays)
        return Observed(marked=marked, strays=self.strays, left=(*parts, *servers_left(pipe)))

    def _is_alive(self) -> bool:
        """Whether the daemon that the reaper named is still there, without asking it once more."""
        if self._handle is None:
            return False
        ended = select.poll()
        ended.register(self._handle, select.POLLIN)
        return not ended.poll(0)

    def _follow(self, pid: int) -> None:
        self.close()
        with suppress(OSError):  # a kernel before 5.3: the reaper is asked each time
            self._handle = os.pidfd_open(pid)

    def close(self) -> None:
        """Lets go of the daemon."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    async def _ask(self, seen: Observed, *, full: bool) -> Observed:
        before = self.servers[0] if len(self.servers) == 1 else None
        pids, status = await self._servers(before)
        same = before is not None and pids == (before.pid,)
        if full or not same or monotonic() - self._full_at > FULL_SECONDS:
            self._default = await self.control.default_limit()
            told = {before.pid: status} if before else {}
            self.servers = tuple([await self._server(pid, told.get(pid)) for pid in pids])
            self._full_at = monotonic()
        elif before is not None and not self._is_as_before(before, status):
            self.servers = (await self._server(before.pid, status),)
        self._hung.seconds(now_so=False)
        fault = any(server.status is ServerStatus.FAULT for server in self.servers)
        starting = any(not (server.ready or fault) for server in self.servers)
        return replace(
            seen,
            servers=self.servers,
            default_limit=self._confirmed(self.daemon, self._default),
            fault_seconds=self._fault.seconds(now_so=fault),
            starting_seconds=self._starting.seconds(now_so=starting),
        )

    async def _servers(self, before: Server | None) -> tuple[tuple[int, ...], ServerStatus]:
        """All servers, and the status of the one that there was."""
        if before is None:
            return await self.control.servers(), ServerStatus.UNKNOWN
        return await self.control.servers_and_status(before.pid)

    def _is_as_before(self, server: Server, status: ServerStatus) -> bool:
        """Whether nothing about a server can be news, if it has the status that it had."""
        settled = server.ready and server.uid == self.user
        return settled and status is server.status is not ServerStatus.FAULT

    async def _server(self, pid: int, status: ServerStatus | None = None) -> Server:
        status = await self.control.status(pid) if status is None else status
        uid = await asyncio.to_thread(uid_of, pid)
        printed = ""
        if status not in (ServerStatus.INITIALIZING, ServerStatus.FAULT):
            printed = await self.control.server_limit(pid)
        return Server(
            pid,
            uid,
            status,
            ready=bool(printed),
            limit=self._confirmed(pid, printed),
            clients=await self._clients(pid, uid, status),
        )

    async def _clients(self, pid: int, uid: int | None, status: ServerStatus) -> tuple[int, ...]:
        if status is ServerStatus.FAULT or uid not in (self.user, None):
            return await self.control.clients(pid)
        return ()  # not needed

    def _confirmed(self, process: int | None, printed: str) -> int | None:
        """The exact limit, when it is what we set and the control program prints nothing else."""
        mib = self._limits.get(process or 0)
        return mib if mib is not None and printed_limit(mib) == printed else None
