"""Health, readiness and metrics over HTTP."""

import socket
from dataclasses import replace

import aiohttp
import pytest

from mpslice.flags import Address
from nodeagent.errors import BadSettings
from nodeagent.ops import ops_server
from tests.nodeagent.conftest import Machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def get(port: int, path: str) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_readiness_follows_the_agent() -> None:
    port, ready = free_port(), False
    async with ops_server(Address("127.0.0.1", port), lambda: ready, lambda: b"metrics 1\n"):
        assert await get(port, "/healthz") == (200, "ok\n")
        assert (await get(port, "/readyz"))[0] == 503
        ready = True
        assert (await get(port, "/readyz"))[0] == 200
        assert await get(port, "/metrics") == (200, "metrics 1\n")


async def test_port_that_is_taken_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = Address("127.0.0.1", holder.getsockname()[1])
        with pytest.raises(BadSettings, match=f"--ops-listen: cannot listen on {address}"):
            async with ops_server(address, lambda: True, lambda: b""):
                pass


async def test_metrics_show_slices_and_memory_by_state(machine: Machine) -> None:
    port = free_port()
    machine.settings = replace(machine.settings, ops_listen=Address("127.0.0.1", port))
    async with machine.agent():
        await machine.applied({"10gb": 2}, {"40gb": 1})
        await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        assert (await get(port, "/readyz"))[0] == 200
        lines = (await get(port, "/metrics"))[1].splitlines()
    for line in (
        'mpslice_slices{gpu="0",node="n1",size="10gb",state="used"} 1.0',
        'mpslice_slices{gpu="0",node="n1",size="10gb",state="free"} 1.0',
        'mpslice_gpu_memory_gb{gpu="0",node="n1",state="uncarved"} 65.0',
        'mpslice_gpu_memory_gb{gpu="1",node="n1",state="free"} 40.0',
        'mpslice_gpu_healthy{gpu="1",node="n1"} 1.0',
        "mpslice_slices_carved_total 3.0",
        "mpslice_layout_apply_seconds_count 1.0",
    ):
        assert line in lines
