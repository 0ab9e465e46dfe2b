"""Who a cluster belongs to, and that it ends with its owner.

Decides the two ways to have one: owned by a process (a test run), or detached (`up`).
While a process owns a cluster, a guard watches that process through a pipe and ends
the cluster when the pipe closes, so Ctrl-C twice or `kill -9` leave nothing behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.cluster import controlplane, node, parts, programs
from hack.cluster.errors import ClusterError
from hack.cluster.layout import CHECKOUT, Cache, ClusterDir
from hack.cluster.leftovers import end_cluster, end_dead_runs
from hack.cluster.processes import find_marked
from hack.cluster.progress import Say

_KEEP = b"keep"
_GUARD_SECONDS = 90.0
_LONGEST_ROOT = 64
"""A socket's path has at most 107 bytes, and the cluster's own part of it is up to 43."""


@contextmanager
def owned(say: Say) -> Iterator[ClusterDir]:
    """A folder for a cluster of this process; all in it ends with the block or process."""
    cache = Cache.default()
    end_dead_runs(cache, say)
    cluster = ClusterDir(cache.runs / f"{os.getpid()}-{secrets.token_hex(2)}")
    _require_short(cluster, "MPSLICE_CACHE")
    with _locked(cluster) as lock, _guarded(cluster, lock):
        yield cluster


def up(say: Say, *, with_mpslice: bool) -> Path:
    """Start a detached cluster, unless it runs; returns its kubeconfig.

    Raises:
        ClusterError: It cannot be started; nothing of it is left.
    """
    cluster = ClusterDir.detached()
    _require_short(cluster, "MPSLICE_CLUSTER_DIR")
    with _locked(cluster) as lock:
        if _runs(cluster):
            say(f"the cluster in {cluster.root} is running; end it with `down`")
            return cluster.kubeconfig
        end_dead_runs(Cache.default(), say)
        if cluster.root.exists():
            end_cluster(cluster)
        obtained = parts.obtain(say)
        say(f"starting a cluster in {cluster.root}")
        with _guarded(cluster, lock) as guard:
            plane = controlplane.start(cluster, obtained, say)
            worker = node.start(plane, say)
            started = [*plane.programs, *worker.programs]
            if with_mpslice:
                started += programs.start(plane, worker, say).programs
            cluster.state.write_text(json.dumps({"parts": [p.name for p in started]}))
            guard.keep()
        for program in started:
            program.detach()
    return cluster.kubeconfig


def down(say: Say) -> None:
    """End the detached cluster, whatever is left of it."""
    cluster = ClusterDir.detached()
    if not cluster.root.exists():
        say(f"no cluster in {cluster.root}")
        return
    with _locked(cluster):
        end_cluster(cluster)
    say(f"ended the cluster in {cluster.root}; its logs stay in {cluster.logs}")


def guard(root: Path) -> None:
    """The guard's own work: wait for the owner's word or end, then clean up."""
    if sys.stdin.buffer.read(len(_KEEP)) != _KEEP:
        end_cluster(ClusterDir(root))


class _Guard:
    """The owner's end of the pipe to the guard's process."""

    def __init__(self, cluster: ClusterDir, lock: int) -> None:
        cluster.logs.mkdir(parents=True, exist_ok=True)
        with (cluster.logs / "guard.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hack.cluster", "guard", str(cluster.root)],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # It keeps the cluster's lock until it has cleaned up.
                pass_fds=(lock,),
                start_new_session=True,
            )
        self.kept = False

    def keep(self) -> None:
        """From here on the cluster outlives this process."""
        assert self._process.stdin is not None
        self._process.stdin.write(_KEEP)
        self._process.stdin.flush()
        self.kept = True

    def close(self) -> None:
        """Returns when the guard is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_GUARD_SECONDS)


@contextmanager
def _guarded(cluster: ClusterDir, lock: int) -> Iterator[_Guard]:
    cluster.root.mkdir(parents=True, exist_ok=True)
    watching = _Guard(cluster, lock)
    try:
        yield watching
    finally:
        try:
            if not watching.kept:
                end_cluster(cluster)
        finally:
            watching.close()


@contextmanager
def _locked(cluster: ClusterDir) -> Iterator[int]:
    cluster.lock.parent.mkdir(parents=True, exist_ok=True)
    with cluster.lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"another process is starting or ending the cluster in {cluster.root}; "
                "try again when it is done"
            ) from None
        yield lock.fileno()


def _require_short(cluster: ClusterDir, variable: str) -> None:
    if len(os.fsencode(cluster.root)) > _LONGEST_ROOT:
        raise ClusterError(
            f"{cluster.root} is too long a path for the sockets in it; set {variable} "
            f"to a shorter one (the whole may have {_LONGEST_ROOT} characters)"
        )


def _runs(cluster: ClusterDir) -> bool:
    """Whether `up` finished here and each of its processes is still alive."""
    if not cluster.state.exists():
        return False
    expected = set(json.loads(cluster.state.read_text())["parts"])
    return expected <= {marked.part for marked in find_marked(cluster)}
