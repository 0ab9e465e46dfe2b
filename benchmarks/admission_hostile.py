"""Six clients that send the largest bodies that they can, beside ordinary reviews and probes.

The senders are a process of their own, with a thread for each; what they send is as dear to read
as a body of 5.7 MiB can be made. `python -m benchmarks.admission hostile` prints the outcome.
"""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from benchmarks.admission_client import Sample, connected, steady
from benchmarks.admission_servers import Server, ours, review
from webhook.bodies import MOST_VALUES

SENDERS: Final = 6
SIZE: Final = 57 * 2**20 // 10  # bytes
_CONTAINER: Final = b'{"name":"c","resources":{"limits":{"nvidia.com/gpu-10gb":"1"}}}'
_PROBE_PAUSE: Final = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the others felt of it; times in seconds, memory in MiB."""

    senders: Counter[str]
    ordinary: Sample
    probes: dict[str, list[tuple[int, float]]]
    peak_mib: float

    @property
    def p99(self) -> float:
        return self.ordinary.quantile(0.99) / 1000

    @property
    def slowest_probe(self) -> float:
        return max(seconds for answers in self.probes.values() for _, seconds in answers)

    @property
    def probes_well(self) -> bool:
        """Whether every probe was answered with 200."""
        return all(status == 200 for answers in self.probes.values() for status, _ in answers)


def containers(count: int, size: int = 0) -> bytes:
    """A review of a pod with so many containers, each with a slice; padded to a size in bytes."""
    return _review(b"[%s]" % b",".join([_CONTAINER] * count), size)


def bodies(size: int = SIZE) -> dict[str, bytes]:
    """What is sent, by what makes it dear."""
    fill = size - 1000
    return {
        "containers": containers(fill // (len(_CONTAINER) + 1)),
        "empty objects": _review(b"[%s]" % b",".join([b"{}"] * (fill // 3))),
        "as many objects as are read": _review(_objects((MOST_VALUES - 100) // 2), size),
        "containers as are read": containers((MOST_VALUES - 100) // 4, size),
        "the same with one of another type": _review(
            b"[%s,null]" % b",".join([_CONTAINER] * ((MOST_VALUES - 100) // 4)), size
        ),
        "a long text of wide characters": _review('["\N{GRINNING FACE}"]'.encode(), size),
    }


def _objects(count: int) -> bytes:
    return b"[%s]" % b",".join(b'{"%x":1}' % index for index in range(count))


def _review(value: bytes, size: int = 0) -> bytes:
    request = {
        "uid": "u",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "object": {"spec": {"containers": "VALUE"}},
    }
    whole = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    body = json.dumps(whole).encode().replace(b'"VALUE"', value)
    padding = max(0, size - len(body) - 10)
    return body[:-1] + b',"":"' + b"x" * padding + b'"}'


_PROBES: Final = ("/healthz", "/readyz")


async def under_attack(server: Server, seconds: float, rate: float = 50) -> Outcome:
    """Ordinary reviews at a steady rate, and probes, while the senders are at it."""
    port, authority = str(server.target.port), server.authority.decode()
    command = ["-m", "benchmarks.admission_hostile", port, authority, str(seconds + 1)]
    senders = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=subprocess.PIPE)
    assert senders.stdout is not None
    await senders.stdout.readline()  # each has been answered once
    probes = {path: asyncio.create_task(_probe(server, path, seconds)) for path in _PROBES}
    async with connected(server.target, 8) as connections:
        ordinary = await steady(connections, review(), rate=rate, seconds=seconds)
    answers = {path: await task for path, task in probes.items()}
    told = json.loads(await senders.stdout.read())
    await senders.wait()
    return Outcome(Counter(told), ordinary, answers, server.peak_mib())


async def _probe(server: Server, path: str, seconds: float) -> list[tuple[int, float]]:
    """The status and the seconds of one probe after the other, on a connection each."""
    answers = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        status = await asyncio.to_thread(_status, server.ops_port, path)
        answers.append((status, time.perf_counter() - started))
        await asyncio.sleep(_PROBE_PAUSE)
    return answers


def _status(port: int, path: str) -> int:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
            return int(connection.recv(4096).split()[1])
    except (OSError, IndexError):
        return 0


def post(port: int, context: ssl.SSLContext, body: bytes, path: str = "/validate") -> str:
    """Sends one body on a connection of its own; the status, or the error's name."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            with suppress(OSError):  # it may be answered before it has been sent
                connection.sendall(head.encode() + body)
            return connection.recv(65536).split()[1].decode()
    except (OSError, IndexError) as error:
        return type(error).__name__


async def hostile(seconds: float) -> None:
    """Prints the bounds and what was met."""
    async with ours() as server:
        before = server.resident_mib()
        outcome = await under_attack(server, seconds)
        slowest = outcome.slowest_probe
        count = sum(map(len, outcome.probes.values()))
        print(
            f"  {SENDERS} senders of {SIZE / 2**20:.1f} MiB for {seconds:g} s: "
            + ", ".join(f"{n:,} answered {s}" for s, n in sorted(outcome.senders.items()))
        )
        print(
            f"  ordinary reviews: {len(outcome.ordinary.latencies):,}, all answered; "
            f"p50 {outcome.ordinary.quantile(0.5):.0f} ms, p99 {outcome.p99 * 1000:.0f} ms, "
            f"slowest {outcome.ordinary.quantile(1):.0f} ms (p99 at most 1000)"
        )
        print(
            f"  /healthz and /readyz: {count:,} probes, "
            f"{'all 200' if outcome.probes_well else 'NOT all 200'}, slowest "
            f"{slowest * 1000:.0f} ms (at most 1000)"
        )
        print(f"  memory: {before:.0f} MiB before, {outcome.peak_mib:.0f} at most (at most 256)")
        await _many_containers(server)


async def _many_containers(server: Server, count: int = 110_000) -> None:
    """A pod that once took 2.4 s to judge."""
    body = containers(count)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        status = await asyncio.to_thread(post, server.target.port, server.target.context, body)
        times.append(time.perf_counter() - started)
    print(
        f"  {count:,} containers in {len(body) / 2**20:.1f} MiB: {status} within "
        f"{max(times) * 1000:.0f} ms of five (at most 200)"
    )


def main() -> None:
    """The senders: port, CA, seconds. Prints a line when all have begun, then the statuses."""
    port, authority, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    context = ssl.create_default_context(cadata=authority)
    sent = list(bodies().values())
    end, statuses, begun = (
        time.monotonic() + seconds,
        Counter[str](),
        threading.Barrier(SENDERS + 1),
    )

    def send(index: int) -> None:
        step = 0
        while step == 0 or time.monotonic() < end:
            path = ("/mutate", "/validate")[step % 2]
            statuses[post(port, context, sent[(index + step) % len(sent)], path)] += 1
            if step == 0:
                begun.wait()
            step += 1

    threads = [threading.Thread(target=send, args=(index,)) for index in range(SENDERS)]
    for thread in threads:
        thread.start()
    begun.wait()
    print("begun", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps(dict(statuses)))


if __name__ == "__main__":
    main()
