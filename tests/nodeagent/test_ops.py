"""Readiness and metrics over HTTP."""

import socket
from dataclasses import replace

import aiohttp

from mpslice.flags import Address
from tests.nodeagent.conftest import Machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def get(port: int, path: str) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_readiness_and_metrics_follow_the_agent(machine: Machine) -> None:
    port = free_port()
    machine.settings = replace(machine.settings, ops_listen=Address("127.0.0.1", port))
    machine.kube.away = True
    async with machine.agent():
        await machine.until(lambda: not port_is_free(port), "it listens")
        assert (await get(port, "/readyz"))[0] == 503
        machine.kube.away = False
        await machine.applied({"10gb": 2}, {"40gb": 1})
        await machine.run_pod(10)
        await machine.until(machine.holders, "holder")
        assert (await get(port, "/readyz"))[0] == 200
        lines = (await get(port, "/metrics"))[1].splitlines()
    for line in (
        'mpslice_slices{gpu="0",node="n1",size="10gb",state="used"} 1.0',
        'mpslice_slices{gpu="0",node="n1",size="10gb",state="free"} 1.0',
        'mpslice_gpu_memory_bytes{gpu="0",node="n1",state="uncarved"} 6.5e+10',
        'mpslice_gpu_memory_bytes{gpu="1",node="n1",state="free"} 4e+10',
        'mpslice_gpu_healthy{gpu="1",node="n1"} 1.0',
        "mpslice_slices_carved_total 3.0",
        "mpslice_layout_apply_seconds_count 1.0",
    ):
        assert line in lines
