"""Finds out how one GPU's daemon fares, with as few calls as serve the purpose.

What the control program prints of a limit is rounded, so what was set is remembered here for as
long as that daemon, or that server, lives.
"""

import asyncio
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final

from mpslice.gpus import GpuUuid
from nodeagent.hardware import ComputeModes
from nodeagent.mps.control import ControlProgram, printed_limit
from nodeagent.mps.decision import Daemon, Observed, Server, ServerStatus
from nodeagent.mps.errors import ControlHung
from nodeagent.mps.paths import MpsRoot
from nodeagent.mps.processes import daemon_of, servers_left, uid_of

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
    """`look` is called by one task only. `daemon` is the control daemon found last."""

    gpu: GpuUuid
    root: MpsRoot
    modes: ComputeModes
    control: ControlProgram
    user: int
    daemon: int | None = field(default=None, init=False)
    servers: tuple[Server, ...] = field(default=(), init=False)
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
        found = await asyncio.to_thread(self._processes)
        seen = found
        if found.marked or (exclusive and holding):
            seen = replace(found, exclusive=await self.modes.is_exclusive(self.gpu))
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

    def was_set(self, process: int, mib: int) -> None:
        """A limit was just set in a daemon or a server."""
        self._limits[process] = mib
        self._full_at = float("-inf")

    def _processes(self) -> Observed:
        pipe = self.root.pipe(self.gpu)
        self.daemon = daemon_of(pipe, self.gpu)
        return Observed(
            marked=self.root.exclusive(self.gpu).exists(),
            daemon=Daemon.ABSENT if self.daemon is None else Daemon.ALIVE,
            left=servers_left(pipe) if self.daemon is None else (),
        )

    async def _ask(self, seen: Observed, *, full: bool) -> Observed:
        full = full or monotonic() - self._full_at > FULL_SECONDS
        pids = await self.control.servers()
        if full or pids != tuple(server.pid for server in self.servers):
            self._default = await self.control.default_limit()
            self.servers = tuple([await self._server(pid) for pid in pids])
            self._full_at = monotonic()
        else:
            self.servers = tuple([await self._again(server) for server in self.servers])
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

    async def _server(self, pid: int) -> Server:
        status = await self.control.status(pid)
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

    async def _again(self, server: Server) -> Server:
        if not server.ready or server.uid != self.user or server.status is ServerStatus.FAULT:
            return await self._server(server.pid)
        status = await self.control.status(server.pid)
        return server if status is server.status else await self._server(server.pid)

    async def _clients(self, pid: int, uid: int | None, status: ServerStatus) -> tuple[int, ...]:
        if status is ServerStatus.FAULT or uid not in (self.user, None):
            return await self.control.clients(pid)
        return ()  # not needed

    def _confirmed(self, process: int | None, printed: str) -> int | None:
        """The exact limit, when it is what we set and the control program prints nothing else."""
        mib = self._limits.get(process or 0)
        return mib if mib is not None and printed_limit(mib) == printed else None
