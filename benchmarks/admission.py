"""How fast `/mutate` answers, beside a bare aiohttp handler that parses and answers the same bytes.

Both are processes of their own on loopback TLS; rounds alternate, so that both see the same
neighbours. `python -m benchmarks.admission --help` lists the parts.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from certs.issue import issue_authority, issue_leaf
from mpslice.flags import Address

_TICK = os.sysconf("SC_CLK_TCK")


def review(path: str = "/mutate") -> bytes:
    """A request of 4 KB as a ReplicaSet's pod makes it, head and body."""
    body = json.dumps(_review()).encode()
    head = f"POST {path}?timeout=5s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _review() -> dict[str, Any]:
    pods = {"group": "", "version": "v1", "resource": "pods"}
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    user = "system:serviceaccount:kube-system:replicaset-controller"
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "1c9e7a60-52f1-4f0e-9c39-0b3a5b1f6d11",
            "kind": kind,
            "resource": pods,
            "requestKind": kind,
            "requestResource": pods,
            "namespace": "team-a",
            "operation": "CREATE",
            "userInfo": {"username": user, "groups": ["system:serviceaccounts"]},
            "object": _pod(),
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    }


def _pod() -> dict[str, Any]:
    probe = {"httpGet": {"path": "/health", "port": 8000, "scheme": "HTTP"}, "periodSeconds": 10}
    variables = [
        {"name": f"SERVICE_SETTING_{index}", "value": f"value-{index}"} for index in range(18)
    ]
    mounts = [{"name": name, "mountPath": f"/var/lib/{name}"} for name in ("models", "cache")]
    token = {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io"}
    server = {
        "name": "server",
        "image": "registry.example.com/team-a/inference-server:2026.11",
        "args": ["--model", "/var/lib/models/llm", "--port", "8000"],
        "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
        "env": variables,
        "resources": {
            "limits": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu-10gb": "1"},
            "requests": {"cpu": "2", "memory": "16Gi", "nvidia.com/gpu-10gb": "1"},
        },
        "volumeMounts": [*mounts, token],
        "livenessProbe": probe,
        "readinessProbe": probe,
        "terminationMessagePath": "/dev/termination-log",
        "imagePullPolicy": "IfNotPresent",
    }
    helper = {
        "name": "metrics",
        "image": "registry.example.com/tools/exporter:1.8",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        "volumeMounts": [token],
    }
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "inference-5d8f", "uid": "u"}
    tolerations = [{"key": key, "operator": "Exists"} for key in ("nvidia.com/gpu", "not-ready")]
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "generateName": "inference-5d8f-",
            "namespace": "team-a",
            "labels": {"app": "inference", "pod-template-hash": "5d8f", "team": "a"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update"}],
        },
        "spec": {
            "volumes": [
                {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
                {"name": "cache", "emptyDir": {"sizeLimit": "10Gi"}},
                {"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": []}},
            ],
            "containers": [server, helper],
            "restartPolicy": "Always",
            "serviceAccountName": "inference",
            "securityContext": {"fsGroup": 1000},
            "affinity": {"nodeAffinity": {}},
            "tolerations": tolerations,
            "schedulerName": "default-scheduler",
            "priority": 0,
            "enableServiceLinks": True,
        },
    }


# The two servers


async def _bare(listen: Address, context: ssl.SSLContext, answer: bytes) -> None:
    """What aiohttp costs by itself."""
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        json.loads(await request.read())
        return web.Response(body=answer, content_type="application/json")

    application = web.Application(client_max_size=8 << 20)
    application.router.add_post("/mutate", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, listen.host, listen.port, ssl_context=context).start()
    await asyncio.Event().wait()


def serve_bare(port: int, folder: Path) -> None:
    """The bare handler as a process; answers with the bytes in `answer.json`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    asyncio.run(_bare(Address("127.0.0.1", port), context, (folder / "answer.json").read_bytes()))


@dataclass(frozen=True, slots=True)
class Server:
    """A server process and where it listens."""

    name: str
    port: int
    pid: int
    context: ssl.SSLContext

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.asynccontextmanager
async def servers(which: Sequence[str]) -> AsyncIterator[list[Server]]:
    """Starts the servers named and ends them with the block."""
    with tempfile.TemporaryDirectory() as name:
        folder, client = Path(name), _certificate(Path(name))
        async with contextlib.AsyncExitStack() as stack:
            started = []
            for server in ("ours", *(name for name in which if name != "ours")):
                command = _ours(folder) if server == "ours" else _bare_command(folder)
                started.append(await _start(stack, server, command, client))
                if server == "ours":
                    answer = await _once(started[0])
                    (folder / "answer.json").write_bytes(answer)
            yield [server for server in started if server.name in which]


def _certificate(folder: Path) -> ssl.SSLContext:
    now, life = datetime.now(UTC), timedelta(days=1)
    authority = issue_authority(now=now, life=life)
    leaf = issue_leaf(authority, ["localhost"], now=now, life=life)
    (folder / "tls.crt").write_bytes(leaf.certificate)
    (folder / "tls.key").write_bytes(leaf.key)
    return ssl.create_default_context(cadata=authority.certificate.decode())


def _ours(folder: Path) -> list[str]:
    files = [f"--tls-cert-file={folder}/tls.crt", f"--tls-private-key-file={folder}/tls.key"]
    ports = ["--listen=127.0.0.1:{port}", "--ops-listen=127.0.0.1:0"]
    options = ["--standalone", "--shutdown-delay=0s", "--log-level=warning"]
    return ["-m", "webhook.main", *ports, *options, *files]


def _bare_command(folder: Path) -> list[str]:
    return ["-m", "benchmarks.admission", "--serve-bare={port}", f"--folder={folder}"]


async def _start(
    stack: contextlib.AsyncExitStack, name: str, command: list[str], client: ssl.SSLContext
) -> Server:
    port = _free_port()
    arguments = [part.format(port=port) for part in command]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    stack.push_async_callback(_end, process)
    server = Server(name, port, process.pid, client)
    async with asyncio.timeout(30):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return server
    raise SystemExit(f"{name} did not start")


async def _end(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM if process.returncode is None else 0)
    await process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# The client


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request on its way at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, server: Server) -> "Connection":
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(
            cls, "127.0.0.1", server.port, ssl=server.context, server_hostname="localhost"
        )
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self._buffer.find(b"Content-Length: ") + 16
        length = int(self._buffer[start : self._buffer.find(b"\r\n", start)])
        if len(self._buffer) < head + 4 + length or self._answer is None:
            return
        answer, self._buffer = bytes(self._buffer[: head + 4 + length]), bytearray()
        self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed"))

    async def post(self, request: bytes) -> bytes:
        """The whole answer, head and body; fails unless it is a 200."""
        self._answer = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._transport.write(request)
        answer = await self._answer
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _once(server: Server) -> bytes:
    connection = await Connection.open(server)
    answer = await connection.post(review())
    connection.close()
    return answer.partition(b"\r\n\r\n")[2]


@dataclass(slots=True)
class Sample:
    """Latencies in seconds, and over how long they were taken."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """In milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


async def closed_loop(server: Server, connections: int, until: Callable[[int], bool]) -> Sample:
    """Every connection sends as fast as it is answered, until `until(requests so far)`."""
    sample, request, done = Sample(), review(), 0

    async def client(connection: Connection) -> None:
        nonlocal done
        while not until(done):
            done += 1
            started = time.perf_counter()
            await connection.post(request)
            sample.latencies.append(time.perf_counter() - started)

    opened = [await Connection.open(server) for _ in range(connections)]
    started = time.perf_counter()
    await asyncio.gather(*(client(connection) for connection in opened))
    sample.seconds = time.perf_counter() - started
    for connection in opened:
        connection.close()
    return sample


async def steady(server: Server, rate: float, seconds: float) -> Sample:
    """A request each 1/rate seconds whatever happens; latency counts from when it was due."""
    sample, request = Sample(), review()
    free = [await Connection.open(server) for _ in range(32)]
    loop, pending = asyncio.get_running_loop(), set()

    async def one(due: float) -> None:
        connection = free.pop() if free else await Connection.open(server)
        await connection.post(request)
        sample.latencies.append(loop.time() - due)
        free.append(connection)

    started = loop.time()
    for index in range(int(rate * seconds)):
        due = started + index / rate
        await asyncio.sleep(due - loop.time())
        task = asyncio.create_task(one(due))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    sample.seconds = loop.time() - started
    for connection in free:
        connection.close()
    return sample


def _for(seconds: float) -> Callable[[int], bool]:
    end = time.perf_counter() + seconds
    return lambda _: time.perf_counter() > end


def _times(requests: int) -> Callable[[int], bool]:
    return lambda done: done >= requests


# The parts


async def compare(rounds: int, seconds: float) -> None:
    """Ours against bare: requests a second and p99, at 16 connections and at 1."""
    async with servers(("ours", "bare")) as both:
        print(f"a review of {len(review())} bytes; {rounds} rounds of {seconds:g} s each")
        for connections in (16, 1):
            taken: dict[str, list[Sample]] = {server.name: [] for server in both}
            spent = {server.name: -server.cpu_seconds() for server in both}
            for _ in range(rounds):
                for server in both:
                    taken[server.name].append(await closed_loop(server, connections, _for(seconds)))
            for server in both:
                spent[server.name] += server.cpu_seconds()
                _tell(server.name, connections, taken[server.name], spent[server.name])
            pairs = list(zip(taken["ours"], taken["bare"], strict=True))
            rate = statistics.median(a.rate / b.rate for a, b in pairs)
            tail = statistics.median(a.quantile(0.99) / b.quantile(0.99) for a, b in pairs)
            print(f"     rate {rate:.2f} of bare's (at least 0.75), p99 {tail:.2f} (at most 1.5)")


def _tell(name: str, connections: int, samples: list[Sample], cpu_seconds: float) -> None:
    rate = statistics.median(sample.rate for sample in samples)
    tail = statistics.median(sample.quantile(0.99) for sample in samples)
    each = cpu_seconds / sum(len(sample.latencies) for sample in samples) * 1e6
    print(
        f"  {connections:>2} connections, {name}: {rate:7.0f}/s, p99 {tail:6.2f} ms, "
        f"{each:4.0f} µs of CPU each"
    )


async def at_500(seconds: float) -> None:
    """Steady 500 reviews a second: p99 and the share of a core."""
    async with servers(("ours",)) as (ours,):
        await closed_loop(ours, 4, _times(2000))
        before = ours.cpu_seconds()
        sample = await steady(ours, 500, seconds)
        share = (ours.cpu_seconds() - before) / sample.seconds
        print(
            f"steady {sample.rate:.0f}/s for {sample.seconds:.0f} s: "
            f"p50 {sample.quantile(0.5):.2f} ms, p99 {sample.quantile(0.99):.2f} ms (aim 5), "
            f"{share:.3f} of a core (aim 0.1)"
        )


async def memory(requests: int) -> None:
    """Resident memory over many requests."""
    async with servers(("ours",)) as (ours,):
        steps = 10
        for step in range(steps + 1):
            print(f"  {step * requests // steps:>9,} requests: {ours.resident_mib():6.1f} MiB")
            if step < steps:
                await closed_loop(ours, 16, _times(requests // steps))


def main() -> None:
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.admission", description=__doc__)
    parts = ("compare", "steady", "memory", "reviews")
    parser.add_argument("part", nargs="*", default=[], help=f"{', '.join(parts)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="of compare (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a round (default 4)")
    parser.add_argument("--requests", type=int, default=500_000, help="of memory (default 500000)")
    parser.add_argument("--reviews", type=int, default=200_000, help="generated (default 200000)")
    parser.add_argument("--serve-bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_bare:
        serve_bare(options.serve_bare, options.folder)
        return
    chosen = options.part or parts
    if "compare" in chosen:
        asyncio.run(compare(options.rounds, options.seconds))
    if "steady" in chosen:
        asyncio.run(at_500(options.seconds * 5))
    if "memory" in chosen:
        asyncio.run(memory(options.requests))
    if "reviews" in chosen:
        from benchmarks.generated import generated

        generated(options.reviews)


if __name__ == "__main__":
    main()
