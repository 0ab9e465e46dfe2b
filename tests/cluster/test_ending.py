"""However a cluster's owner ends, nothing of the cluster is left on the machine.

The clusters here are started by processes of their own, since what is shown is what
outlives them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hack.cluster import cgroups, network
from hack.cluster.layout import CHECKOUT, DEVICE_PLUGIN_DIR, Cache, ClusterDir
from hack.cluster.leftovers import end_dead_runs, mounts_below
from hack.cluster.parts import Parts
from hack.cluster.processes import find_marked
from hack.cluster.system import find
from hack.cluster.versions import NFTABLES
from hack.cluster.waiting import wait_until

# What is waited for comes within seconds where the machine is idle. Beside other tests on two cores
# 60 s were not enough: the deadlines are there to end a test that would wait for ever.
_DEADLINE = 240  # seconds
pytestmark = pytest.mark.timeout(3 * _DEADLINE)

# A shell has its background jobs ignore SIGINT, and so whatever they start.
_OWNER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from hack.cluster import controlplane, lifecycle, node, parts
from hack.cluster.progress import silent
with lifecycle.owned(silent) as cluster:
    plane = controlplane.start(cluster, parts.obtain(silent), silent)
    if sys.argv[1] == "node":
        node.start(plane, silent)
        plane.kubectl("run", "left", "--image=localhost/busybox:1", "--", "sleep", "3600")
        plane.kubectl("wait", "--for=condition=Ready", "pod/left", "--timeout=" + sys.argv[2] + "s")
    print(cluster.root, flush=True)
    time.sleep(600)
"""


@contextmanager
def _owner(
    kind: str, cache: Cache | None = None
) -> Iterator[tuple[subprocess.Popen[str], ClusterDir]]:
    """A process that owns a cluster, once the cluster is up."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, kind, str(_DEADLINE)],
        cwd=CHECKOUT,
        env={**os.environ, "MPSLICE_CACHE": str((cache or Cache.default()).root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            root = process.stdout.readline().strip()
            assert root, process.communicate()[1]
            yield process, ClusterDir(Path(root))
        finally:
            process.kill()


def _left(cluster: ClusterDir) -> list[str]:
    """What is still there of a cluster, in words."""
    left = [f"process {m.part} {m.pid}" for m in find_marked(cluster)]
    left += [f"mount {point}" for point in mounts_below(cluster.root)]
    left += [f"link {link}" for link in network.links(cluster)]
    left += [f"file {path.name}" for path in cluster.root.glob("*") if path.name != "logs"]
    return left


def _wait_until_gone(cluster: ClusterDir) -> None:
    wait_until(
        lambda: not _left(cluster),
        "all is gone",
        seconds=_DEADLINE,
        details=lambda: ", ".join(_left(cluster)),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_owner(cluster_parts: Parts, number: signal.Signals) -> None:
    with _owner("control-plane") as (process, cluster):
        assert {"etcd", "kube-apiserver"} <= {m.part for m in find_marked(cluster)}
        process.send_signal(number)
        process.wait(_DEADLINE)
        _wait_until_gone(cluster)


def test_interrupted_twice_it_is_all_gone_too(cluster_parts: Parts) -> None:
    with _owner("control-plane") as (process, cluster):
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(_DEADLINE)
        _wait_until_gone(cluster)


def test_nothing_of_a_node_outlives_a_killed_owner(machine_without_node: None) -> None:
    with _owner("node") as (process, cluster):
        assert {"containerd", "kubelet", "kube-proxy"} <= {m.part for m in find_marked(cluster)}
        assert mounts_below(cluster.root)
        assert cgroups.exists()
        process.kill()
        process.wait(_DEADLINE)
        _wait_until_gone(cluster)
    wait_until(lambda: not _left_of_nodes(), "the rest is gone", seconds=_DEADLINE)


def _left_of_nodes() -> list[str]:
    """What is still there of nodes on this machine, in words."""
    listing = [str(find(NFTABLES)), "list", "tables"]
    tables = subprocess.run(listing, capture_output=True, text=True, timeout=_DEADLINE).stdout
    left = [f"table {line}" for line in tables.splitlines() if "kube-proxy" in line]
    left += [f"plugin {path.name}" for path in DEVICE_PLUGIN_DIR.iterdir()]
    return [*left, "cgroup"] if cgroups.exists() else left


@pytest.fixture
def other_cache(cluster_parts: Parts) -> Iterator[Cache]:
    """A cache with the same parts whose runs nobody else cleans up."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        (cache.root / "parts").symlink_to(cluster_parts.cache.root / "parts")
        yield cache


def test_next_start_ends_what_a_killed_guard_left(
    machine_without_node: None, other_cache: Cache
) -> None:
    with _owner("node", other_cache) as (process, cluster):
        os.kill(_guard_of(cluster), signal.SIGKILL)
        process.kill()
        process.wait(_DEADLINE)
        assert _left(cluster)
        said: list[str] = []
        end_dead_runs(other_cache, said.append)
        assert said == [f"ending what a killed run left in {cluster.root}"]
        assert not _left(cluster)
        assert not cluster.root.exists()


def test_up_again_says_that_it_runs_and_down_ends_it(machine_without_node: None) -> None:
    with tempfile.TemporaryDirectory() as folder:  # shorter than pytest's: it holds sockets
        cluster = ClusterDir(Path(folder, "cluster"))
        _up_up_down(cluster)


def test_folder_too_long_for_sockets_is_refused_with_the_remedy(
    cluster_parts: Parts, tmp_path: Path
) -> None:
    cluster = ClusterDir(tmp_path / ("long" * 20))
    with _detached(cluster) as command:
        refused = command("up", "--bare")
    assert refused.returncode == 1
    assert "set MPSLICE_CLUSTER_DIR to a shorter" in refused.stderr
    assert not _left(cluster)


def _up_up_down(cluster: ClusterDir) -> None:
    with _detached(cluster) as command:
        first, again = command("up", "--bare"), command("up", "--bare")
        assert first.returncode == 0, first.stderr
        assert first.stdout.splitlines()[-1] == f"export KUBECONFIG={cluster.kubeconfig}"
        assert again.stdout == first.stdout
        assert "is running" in again.stderr
        assert command("down").returncode == 0
        assert not _left(cluster)


@contextmanager
def _detached(cluster: ClusterDir) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hack.cluster", *arguments],
            cwd=CHECKOUT,
            env={**os.environ, "MPSLICE_CLUSTER_DIR": str(cluster.root)},
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
        )

    try:
        yield command
    finally:
        command("down")


def _guard_of(cluster: ClusterDir) -> int:
    """The process id of the guard, told by its command line."""
    command: list[bytes] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # of a process that has ended meanwhile
            command = (folder / "cmdline").read_bytes().split(b"\0")
        if b"guard" in command and os.fsencode(cluster.root) in command:
            return int(folder.name)
    raise AssertionError("no guard")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_what_a_dead_run_has_mounted_is_unmounted(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    disk = cache.runs / "1-ab" / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True, timeout=_DEADLINE)
    end_dead_runs(cache, lambda _line: None)
    assert not mounts_below(tmp_path)
    assert not disk.exists()
