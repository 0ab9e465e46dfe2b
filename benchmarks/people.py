"""`python -m benchmarks.people`: what `kubectl mpslice plan` and `status` cost on a large cluster.

1,000 nodes of 8 GPUs and 10,000 pods, 8,000 of which hold slices; `plan` reads them from a file,
`status` from an API server that answers at once. Then 20,000 pods as a table and as JSON. Each is a
process of its own: wall time, CPU time, peak of resident memory. The baseline is a process that
parses the same file and does nothing else.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from planner.model.pods import GATE
from tests.cli.fake_api import cluster
from tests.cli.objects import gpu, layout, node, pod

Json = dict[str, Any]

WALL, MEMORY, TABLE_TO_JSON = 4.0, 300.0, 1.3
"""At most so many seconds and MB for 10,000 pods, and so many times JSON's CPU for a table."""

_GPUS = 8
_PLURALS = ("nodes", "nodelayouts", "pods")


class Cost(NamedTuple):
    """Of one process: seconds, and MB (10^6 bytes) at its peak."""

    wall: float
    cpu: float
    memory: float


def objects(nodes: int, pods: int) -> dict[str, list[Json]]:
    """A cluster whose GPUs hold one slice of 40gb each, as an API server answers it, by plural."""
    names = [f"gpu-{number}" for number in range(nodes)]
    layouts = [
        layout(name, *(gpu(name, i, 80, (40, f"team-{i}/{name}-{i}")) for i in range(_GPUS)))
        for name in names
    ]
    held = [
        pod(f"{name}-{i}", 40, namespace=f"team-{i}", on=name, requests={"cpu": "2"})
        for name in names
        for i in range(_GPUS)
    ]
    sizes = (10, 20, 40, 85)
    waiting = [
        pod(f"new-{n}", sizes[n % 4], namespace=f"team-{n % _GPUS}", gates=[GATE])
        for n in range(pods - len(held))
    ]
    found: dict[str, list[Json]] = {plural: [] for plural in _PLURALS}
    for resource, obj in cluster(
        nodes=(node(name) for name in names), layouts=layouts, pods=[*held, *waiting]
    ):
        kind = {"nodes": "Node", "nodelayouts": "NodeLayout", "pods": "Pod"}[resource.plural]
        found[resource.plural].append({"apiVersion": resource.api_version, "kind": kind, **obj})
    return found


def cost(arguments: Sequence[str], statuses: Sequence[int] = (0, 1)) -> Cost:
    """Runs Python with the arguments in this checkout; its output goes nowhere."""
    started = time.monotonic()
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, *arguments],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status) not in statuses:
        raise SystemExit(f"python {' '.join(arguments)} ended with {status}")
    wall = time.monotonic() - started
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)


def best(arguments: Sequence[str], rounds: int) -> Cost:
    """The cheapest of several runs: what others do on the machine only adds."""
    return min((cost(arguments) for _ in range(rounds)), key=lambda each: each.cpu)


def _serve(found: dict[str, list[Json]], ready: Connection) -> None:
    """An API server that knows lists in pages, encoded before anybody asks."""
    pages: dict[tuple[str, str], bytes] = {}
    for plural, items in found.items():
        for start in range(0, len(items), 500):
            metadata = {"resourceVersion": "1"}
            if start + 500 < len(items):
                metadata["continue"] = str(start + 500)
            answer = {"kind": "List", "metadata": metadata, "items": items[start : start + 500]}
            pages[plural, str(start) if start else ""] = json.dumps(answer).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            token = parse_qs(url.query).get("continue", [""])[0]
            plural = url.path.rpartition("/")[2]
            found = pages.get((plural, token))
            self.send_response(200 if found or plural == "namespaces" else 404)
            body = found or b'{"kind": "List", "metadata": {}, "items": []}'
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def served(found: dict[str, list[Json]], folder: Path) -> Iterator[Path]:
    """The kubeconfig of an API server that has the objects."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(found, there), daemon=True)
    process.start()
    server = {"server": f"http://127.0.0.1:{here.recv()}"}
    context = {"cluster": "c", "user": "u"}
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": context}],
                "clusters": [{"name": "c", "cluster": server}],
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    yield path
    process.terminate()
    process.join()


def written(found: dict[str, list[Json]], path: Path) -> Path:
    """A file as `kubectl get -o json` writes it."""
    items = [item for plural in _PLURALS for item in found[plural]]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return path


def row(name: str, told: Cost, base: Cost) -> str:
    """A line of the table: the costs, and the CPU time as a multiple of the baseline's."""
    times = f"{told.cpu / base.cpu:.1f}"
    return f"{name:<42} {told.wall:>6.2f} {told.cpu:>6.2f} {told.memory:>7.0f} {times:>7}"


def main() -> int:
    """Prints a row for each; 1 where CPU time, memory or the ratio is above its bound.

    CPU time is what is judged: wall time is that of a machine that does nothing else.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.people")
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    nodes, rounds = options.nodes, options.rounds
    tool = ("-m", "cli.main")
    parse = ("-c", "import json, sys; json.load(open(sys.argv[1]))")
    print(f"{'':<42} {'wall s':>6} {'CPU s':>6} {'MB':>7} {'× parse':>7}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = objects(nodes, nodes * 10)
        file = written(small, folder / "cluster.json")
        base = best((*parse, str(file)), rounds)
        plan = best((*tool, "plan", f"--filename={file}"), rounds)
        with served(small, folder) as kubeconfig:
            status = best((*tool, "status", f"--kubeconfig={kubeconfig}"), rounds)
        what = f"{nodes:,} nodes, {nodes * 10:,} pods"
        print(row(f"{what}: json.load alone", base, base))
        print(row(f"{what}: plan", plan, base))
        print(row(f"{what}: status", status, base))
        del small
        file = written(objects(nodes, nodes * 20), folder / "cluster.json")
        base = best((*parse, str(file)), rounds)
        what = f"{nodes:,} nodes, {nodes * 20:,} pods"
        shown = {}
        for output in ("json", "table"):
            shown[output] = best((*tool, "plan", f"--filename={file}", "-o", output), rounds)
            print(row(f"{what}: plan -o {output}", shown[output], base))
    ratio = shown["table"].cpu / shown["json"].cpu
    print(f"a table takes {ratio:.2f} times the CPU of JSON")
    worst = (max(plan.cpu, status.cpu), max(plan.memory, status.memory), ratio)
    return int(
        any(is_ > bound for is_, bound in zip(worst, (WALL, MEMORY, TABLE_TO_JSON), strict=True))
    )


if __name__ == "__main__":
    sys.exit(main())
