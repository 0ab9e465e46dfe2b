"""The commands `python -m hack.cluster parts|up|down`.

Progress goes to stderr; the last line of `up` on stdout is for a shell to evaluate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hack.cluster import lifecycle, parts
from hack.cluster.errors import ClusterError
from hack.cluster.progress import to_stderr


def main() -> int:
    """Run one command; 1 and one line on stderr when it cannot be done."""
    arguments = _parser().parse_args()
    try:
        match arguments.verb:
            case "parts":
                to_stderr(f"all parts are in {parts.obtain(to_stderr).cache.root}")
            case "up":
                kubeconfig = lifecycle.up(to_stderr, with_mpslice=not arguments.bare)
                print(f"export KUBECONFIG={kubeconfig}")
            case "down":
                lifecycle.down(to_stderr)
            case "guard":
                lifecycle.guard(arguments.folder)
    except ClusterError as error:
        to_stderr(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hack.cluster",
        description="A real Kubernetes cluster with one node on this machine.",
        epilog="MPSLICE_CACHE: where parts are kept (~/.cache/mpslice). "
        "MPSLICE_CLUSTER_DIR: the cluster's folder (cluster, in the cache). "
        "MPSLICE_KUBE_FROM: build or download (default: download, else build).",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="parts|up|down")
    verbs.add_parser("parts", help="obtain all components into the cache")
    up = verbs.add_parser("up", help="start a cluster and leave it running")
    up.add_argument("--bare", action="store_true", help="without mpslice in it")
    verbs.add_parser("down", help="end the cluster that up started")
    guard = verbs.add_parser("guard")  # started by the harness itself
    guard.add_argument("folder", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
