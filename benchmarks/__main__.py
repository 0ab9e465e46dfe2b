"""`make bench`: every benchmark in turn, each with its own baseline in the same run."""

import argparse
import subprocess
import sys
from collections.abc import Sequence

BENCHMARKS = {
    "admission": "the webhook beside a handler that only parses and answers",
    "busy": "the planner on a busy cluster beside parsing alone; gates while decisions take long",
    "packing": "the plan beside four other packers, the LP bound and the optimum",
    "planner_at_scale": "the planner on 1,000 nodes and 10,000 pods of a real API server",
    "people": "plan and status of the plugin on 1,000 nodes beside parsing alone",
    "mps": "what MPS adds to a container's start, beside one call of NVIDIA's program (needs root)",
    "agent": "a NodeLayout → bindable on a real kubelet beside a bare device plugin (needs root)",
    "latency": "created → bound on a real cluster beside the stock scheduler alone (needs root)",
    "cluster": "ten nodes' agents, a burst, steady arrivals, pods without room (needs root)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks named, or all; returns 1 when one of them failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Runs benchmarks: "
        + "; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]}; choose of {', '.join(BENCHMARKS)}")
    failed = False
    for name in options.names or BENCHMARKS:
        print(f"== {name}: {BENCHMARKS[name]}", flush=True)
        failed |= subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
