"""The two servers that are compared, as processes, and the review that both are asked.

The bare one is what aiohttp costs by itself: it parses the review and answers the same bytes.
"""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.admission_client import Connection, Target
from certs.issue import issue_authority, issue_leaf
from mpslice.flags import Address


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


@dataclass(frozen=True, slots=True)
class Server:
    """A server process and how to reach it."""

    name: str
    pid: int
    target: Target
    ops_port: int
    authority: bytes

    def cpu_seconds(self) -> float:
        """What its one busy thread has used so far, user and system; to the nanosecond, unlike
        /proc/PID/stat.
        """
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def peak_mib(self) -> float:
        """The most memory that was ever resident."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@contextlib.asynccontextmanager
async def ours() -> AsyncIterator[Server]:
    """mpslice-webhook, without a cluster."""
    with tempfile.TemporaryDirectory() as folder:
        authority = _certificate(Path(folder))
        async with _started("ours", _ours(Path(folder)), authority) as server:
            yield server


@contextlib.asynccontextmanager
async def both(*flags: str) -> AsyncIterator[tuple[Server, Server]]:
    """Ours with these flags, and the bare one that answers with the bytes of ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = _certificate(folder)
        async with _started("ours", [*_ours(folder), *flags], authority) as first:
            (folder / "answer.json").write_bytes(await _answer(first.target))
            async with _started("bare", _bare_command(folder), authority) as second:
                yield first, second


def _certificate(folder: Path) -> bytes:
    now, life = datetime.now(UTC), timedelta(days=1)
    authority = issue_authority(now=now, life=life)
    leaf = issue_leaf(authority, ["localhost"], now=now, life=life)
    (folder / "tls.crt").write_bytes(leaf.certificate)
    (folder / "tls.key").write_bytes(leaf.key)
    return authority.certificate


def _ours(folder: Path) -> list[str]:
    files = [f"--tls-cert-file={folder}/tls.crt", f"--tls-private-key-file={folder}/tls.key"]
    ports = ["--listen=127.0.0.1:{port}", "--ops-listen=127.0.0.1:{ops_port}"]
    options = ["--standalone", "--shutdown-delay=0s", "--log-level=warning"]
    return ["-m", "webhook.main", *ports, *options, *files]


def _bare_command(folder: Path) -> list[str]:
    return ["-m", "benchmarks.admission_servers", "{port}", str(folder)]


@contextlib.asynccontextmanager
async def _started(name: str, command: list[str], authority: bytes) -> AsyncIterator[Server]:
    port, ops_port = _free_port(), _free_port()
    arguments = [part.format(port=port, ops_port=ops_port) for part in command]
    context = ssl.create_default_context(cadata=authority.decode())
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        await _listens(name, process, port)
        yield Server(name, process.pid, Target(port, context, review()), ops_port, authority)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(name: str, process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(30):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
    raise SystemExit(f"{name} did not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _answer(target: Target) -> bytes:
    connection = await Connection.open(target)
    answer = await connection.post(target.request)
    connection.close()
    return answer.partition(b"\r\n\r\n")[2]


async def _bare(listen: Address, context: ssl.SSLContext, answer: bytes) -> None:
    async def handle(request: web.Request) -> web.Response:
        json.loads(await request.read())
        return web.Response(body=answer, content_type="application/json")

    application = web.Application(client_max_size=8 << 20)
    application.router.add_post("/mutate", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, listen.host, listen.port, ssl_context=context).start()
    await asyncio.Event().wait()


def main() -> None:
    """The bare server as a process: its port, and the folder with its certificate and answer."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    answer = (folder / "answer.json").read_bytes()
    asyncio.run(_bare(Address("127.0.0.1", port), context, answer))


if __name__ == "__main__":
    main()
