"""NVIDIA's `nvidia-cuda-mps-control`, for one daemon: commands go in, typed answers come out.

What its answers mean is in `answers`. A limit is always written `<integer>M` by the device's
ordinal and read back.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nodeagent.mps.answers import means_no_daemon, parse_limit, parse_pids, parse_status
from nodeagent.mps.decision import ServerStatus
from nodeagent.mps.errors import ControlHung, ControlProgramMissing, NoDaemon
from nodeagent.mps.launch import mps_environment
from nodeagent.mps.paths import PROGRAM

CALL_SECONDS: Final = 5.0
"""The deadline of one call; an answer takes some milliseconds."""

DEVICE: Final = 0
"""The daemon sees one GPU (CUDA_VISIBLE_DEVICES), so its ordinal is 0 on every side."""

log = logging.getLogger(__name__)


class ControlProgram:
    """Calls for one daemon, one at a time. Every call raises NoDaemon, ControlHung or OSError.

    A call that goes beyond its deadline is given up; what it asked for may still happen.
    """

    def __init__(
        self,
        pipe: Path,
        log_directory: Path,
        *,
        program: str = PROGRAM,
        environment: Mapping[str, str] = os.environ,
        deadline: float = CALL_SECONDS,
    ) -> None:
        self._program = program
        self._environment = mps_environment(environment, pipe, log_directory)
        self._deadline = deadline
        self._turn = asyncio.Lock()

    async def servers(self) -> tuple[int, ...]:
        return parse_pids(await self._ask("get_server_list"))

    async def status(self, server: int) -> ServerStatus:
        return parse_status(await self._ask(f"get_server_status {server}"))

    async def servers_and_status(self, server: int) -> tuple[tuple[int, ...], ServerStatus]:
        """All servers, and the status of one that was there before, by one call."""
        answer = await self._ask("get_server_list", f"get_server_status {server}")
        return parse_pids(answer), parse_status(answer.rpartition("\n")[2])

    async def clients(self, server: int) -> tuple[int, ...]:
        """The processes that a server serves, in the daemon's PID namespace."""
        return parse_pids(await self._ask(f"get_client_list {server}"))

    async def start_server(self, uid: int) -> None:
        """Asks for a server; whether one lives on is for `servers` to show."""
        await self._ask(f"start_server -uid {uid}")

    async def shut_down_server(self, server: int) -> None:
        """Lets a server end when its clients have."""
        await self._ask(f"shutdown_server {server}")

    async def default_limit(self) -> str:
        """What servers to come will start with, as it is printed."""
        return parse_limit(await self._ask(f"get_default_device_pinned_mem_limit {DEVICE}"))

    async def set_default_limit(self, mib: int) -> str:
        """Sets it, and what it reads back as."""
        return await self._set_limit(
            f"set_default_device_pinned_mem_limit {DEVICE} {mib}M",
            f"get_default_device_pinned_mem_limit {DEVICE}",
        )

    async def server_limit(self, server: int) -> str:
        """What a server's clients to come will be held to; "" until the server is ready."""
        return parse_limit(await self._ask(f"get_device_pinned_mem_limit {server} {DEVICE}"))

    async def set_server_limit(self, server: int, mib: int) -> str:
        """Sets it, and what it reads back as."""
        return await self._set_limit(
            f"set_device_pinned_mem_limit {server} {DEVICE} {mib}M",
            f"get_device_pinned_mem_limit {server} {DEVICE}",
        )

    async def _set_limit(self, command: str, question: str) -> str:
        answer = await self._ask(command, question)
        return parse_limit(answer.rpartition("\n")[2])

    async def terminate_client(self, server: int, client: int) -> bool:
        """Ends what a client has on the GPU; whether the server says that it did."""
        return await self._ask(f"terminate_client {server} {client}") == "0"

    async def quit(self, seconds: int) -> None:
        """Ends the daemon; servers whose clients do not end in time are forced to."""
        await self._ask(f"quit -t {seconds}", deadline=self._deadline + seconds)

    async def drain(self) -> None:
        """Asks the daemon to end once the last client has, and does not wait for it."""
        try:
            await self._ask("quit")
        except ControlHung:
            return  # it waits for clients

    async def _ask(self, *commands: str, deadline: float | None = None) -> str:
        text = "".join(f"{command}\n" for command in commands)
        status, answer = await self._call(text, deadline or self._deadline)
        if means_no_daemon(status, answer):
            raise NoDaemon("no MPS control daemon runs")
        return answer.strip()

    async def _call(self, text: str, deadline: float) -> tuple[int, str]:
        async with self._turn:
            try:
                process = await asyncio.create_subprocess_exec(
                    self._program,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=self._environment,
                    cwd="/",
                )
            except FileNotFoundError as error:
                raise ControlProgramMissing(
                    f"{self._program} is not to be found; give the container the driver's programs "
                    "(the chart's runtimeClassName or driverRoot)"
                ) from error
            try:
                async with asyncio.timeout(deadline):
                    answer, _ = await process.communicate(text.encode())
            except TimeoutError as error:
                what = text.strip().replace("\n", ", ")
                raise ControlHung(
                    f"the MPS control daemon does not answer ({what}, {deadline:.0f} s)"
                ) from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        return process.returncode or 0, answer.decode(errors="replace")
