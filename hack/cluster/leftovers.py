"""Ends everything that belongs to a cluster's folder, whether it stopped or was killed.

The one way to stop a cluster: it looks at the machine, not at records, so it does the
same for a clean end, for `down`, after a crash and when called twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.cluster import cgroups, network, system
from hack.cluster.errors import ClusterError
from hack.cluster.layout import (
    CNI_RESULTS,
    CONTAINER_LOG_LINKS,
    DEVICE_PLUGIN_DIR,
    Cache,
    ClusterDir,
)
from hack.cluster.processes import Marked, end, find_marked
from hack.cluster.progress import Say
from hack.cluster.versions import MOUNT, NFTABLES

CNI_NETWORK = "mpslice-node"
CONTAINERD = "containerd"
_MACHINE_LOCK = Path("/run/mpslice-node.lock")
_SHIM = "containerd-shim-runc-v2"
_ETCD = "etcd"
_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_NODE = ("kubelet", "kube-proxy", CONTAINERD)


def end_cluster(cluster: ClusterDir) -> None:
    """Stop all of the cluster and take away what it set up; its logs stay.

    Raises:
        ClusterError: Something could not be ended; what follows it was still tried.
    """
    steps: list[Callable[[], None]] = [
        lambda: _end(cluster, lambda m: m.part not in (*_CONTROL_PLANE, *_NODE, _ETCD), 5),
    ]
    if cluster.node.exists():
        steps.append(lambda: _end_node(cluster))
    steps += [
        # What it stores is thrown away: no reason to await its long polls.
        lambda: _end(cluster, lambda m: m.part in _CONTROL_PLANE, 1),
        lambda: _end(cluster, lambda _m: True, 5),
        lambda: _unmount(cluster.root),
        lambda: _remove_links(cluster),
        lambda: _remove_all_but_logs(cluster),
    ]
    _try_all(cluster, steps)


def end_dead_runs(cache: Cache, say: Say) -> None:
    """End the clusters of test runs that were killed; forget the logs of older runs."""
    for folder in sorted(cache.runs.glob("*/")):
        cluster = ClusterDir(folder)
        with cluster.lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its owner, or who cleans up after it, lives
            if find_marked(cluster) or network.links(cluster) or mounts_below(cluster.root):
                say(f"ending what a killed run left in {folder}")
            end_cluster(cluster)
            shutil.rmtree(folder, ignore_errors=True)
            cluster.lock.unlink(missing_ok=True)


def mounts_below(folder: Path) -> list[str]:
    """Mount points in `folder`, innermost first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Blanks and the like are written as octal numbers.
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if Path(point).is_relative_to(folder):
            points.append(point)
    return points[::-1]


def node_owners() -> set[Path]:
    """The folders of the clusters whose node runs on this machine now."""
    return {marked.cluster for marked in find_marked() if marked.part in _NODE}


@contextmanager
def machine_locked() -> Iterator[None]:
    """While one starts or ends a node: parts of it are one for the whole machine."""
    with _MACHINE_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _end_node(cluster: ClusterDir) -> None:
    with machine_locked():
        # A node that was killed is gone for long, and the machine may have another now.
        owns_machine = not node_owners() - {cluster.root}
        steps: list[Callable[[], None]] = [
            lambda: _end(cluster, lambda m: m.part in ("kubelet", "kube-proxy"), 5),
            *([cgroups.kill] if owns_machine else []),
            lambda: _end(cluster, lambda m: m.command == _SHIM, 0, signal.SIGKILL),
            lambda: _end(cluster, lambda m: m.part == CONTAINERD, 5),
            lambda: _unmount(cluster.root),
        ]
        if owns_machine:
            steps += [cgroups.remove, _delete_service_tables, lambda: _remove_node_files(cluster)]
        _try_all(cluster, steps)


def _try_all(cluster: ClusterDir, steps: Iterable[Callable[[], None]]) -> None:
    """What fails must not keep the rest from being cleaned up."""
    errors = []
    for each in steps:
        try:
            each()
        except (ClusterError, OSError, subprocess.SubprocessError) as error:
            errors.append(str(error))
    if errors:
        raise ClusterError(f"the cluster in {cluster.root} is not all gone: {'; '.join(errors)}")


def _end(
    cluster: ClusterDir,
    which: Callable[[Marked], bool],
    seconds: float,
    first: int = signal.SIGTERM,
) -> None:
    end([m for m in find_marked(cluster) if which(m) and m.pid != os.getpid()], seconds, first)


def _unmount(folder: Path) -> None:
    for point in mounts_below(folder):
        # Lazily: a process that looks into it must not keep it.
        subprocess.run([str(system.find(MOUNT)), "--lazy", point], capture_output=True, timeout=20)
    if left := mounts_below(folder):
        raise ClusterError(f"still mounted: {', '.join(left)}; unmount them by hand")


def _remove_links(cluster: ClusterDir) -> None:
    for link in network.links(cluster):
        network.remove(link)
    if left := network.links(cluster):
        raise ClusterError(
            f"network links {', '.join(left)} remain; remove them with `ip link del`"
        )


def _delete_service_tables() -> None:
    """kube-proxy leaves its tables behind, so that services outlive its restarts."""
    for family in ("ip", "ip6"):
        subprocess.run(
            [str(system.find(NFTABLES)), "delete", "table", family, "kube-proxy"],
            capture_output=True,  # it fails where kube-proxy made none
            timeout=20,
        )


def _remove_node_files(cluster: ClusterDir) -> None:
    """Files at places that the kubelet, containerd and libcni fix."""
    for path in DEVICE_PLUGIN_DIR.glob("*"):
        path.unlink(missing_ok=True)
    for result in CNI_RESULTS.glob(f"{CNI_NETWORK}-*-eth0"):
        sandbox = result.name.removeprefix(f"{CNI_NETWORK}-").removesuffix("-eth0")
        (CNI_RESULTS / f"cni-loopback-{sandbox}-lo").unlink(missing_ok=True)
        result.unlink(missing_ok=True)
    for link in CONTAINER_LOG_LINKS.glob("*.log"):
        if link.is_symlink() and Path(os.readlink(link)).is_relative_to(cluster.root):
            link.unlink(missing_ok=True)
    for bootstrap in cluster.containerd.glob("state/*.task/*/*/bootstrap.json"):
        address = json.loads(bootstrap.read_text()).get("address", "")
        if address.startswith("unix://"):
            Path(address.removeprefix("unix://")).unlink(missing_ok=True)


def _remove_all_but_logs(cluster: ClusterDir) -> None:
    if mounts_below(cluster.root):
        return  # never delete through a mount
    for path in cluster.root.glob("*"):
        if path == cluster.logs:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
