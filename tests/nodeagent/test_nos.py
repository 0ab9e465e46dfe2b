"""How nos shows on a node: by its plugin's pod, its sockets, and what it answered the kubelet."""

import socket
from pathlib import Path

import pytest

from nodeagent.gpus.nos import Traces, find_traces, serves
from nodeagent.slices.evidence import Pods
from nodeagent.slices.pods import PodFacts, project_pod
from tests.nodeagent.conftest import pod_manifest


def plugin(*containers: dict[str, str]) -> PodFacts | None:
    metadata = {"namespace": "nebuly-nvidia", "name": "plugin"}
    mounts = [{"name": "plugins", "hostPath": {"path": "/var/lib/kubelet/device-plugins/"}}]
    return project_pod(
        {"metadata": metadata, "spec": {"containers": containers, "volumes": mounts}}
    )


def test_pod_that_has_only_the_name_stops_nothing() -> None:
    """Anybody may give a container a name, and a path on the host next to it."""
    for path in ("/tmp/nvidia-mps", "/var/lib/kubelet", None):
        volume = {"emptyDir": {}} if path is None else {"hostPath": {"path": path}}
        spec = {"containers": [{"name": "nvidia-mps-server"}], "volumes": [volume]}
        assert project_pod({"metadata": {"name": "a"}, "spec": spec}) is None


def slice_pod(name: str, *, ended: bool = False) -> PodFacts:
    manifest = pod_manifest(name, 10, phase="Failed" if ended else "Running")
    manifest["status"]["startTime"] = "2026-01-01T00:00:00Z"
    manifest["metadata"]["uid"] = f"uid-{name}"
    facts = project_pod(manifest)
    assert facts is not None
    return facts


@pytest.mark.parametrize(
    "container",
    [
        {"name": "nvidia-mps-server"},
        {"name": "plugin", "image": "ghcr.io/nebuly-ai/k8s-device-plugin:0.13.0"},
    ],
)
def test_plugin_is_known_by_its_mps_server_or_its_image(container: dict[str, str]) -> None:
    facts = plugin({"name": "other"}, container)
    assert facts is not None
    assert facts.nos_plugin


def test_nvidias_own_plugin_is_not_noss() -> None:
    image = "nvcr.io/nvidia/k8s-device-plugin:v0.17.0"
    assert plugin({"name": "nvidia-device-plugin-ctr", "image": image}) is None


def test_whoever_has_a_slice_that_is_not_ours_has_it_from_the_plugin() -> None:
    nos = plugin({"name": "nvidia-mps-server"})
    assert nos is not None
    pods = Pods.of([nos, slice_pod("ours"), slice_pod("theirs"), slice_pod("old", ended=True)])
    traces = find_traces(pods, {"uid-ours"}, {"uid-old"})
    assert traces == Traces(("nebuly-nvidia/plugin",), frozenset({"uid-theirs"}))


def test_without_the_plugin_only_those_known_before_have_theirs_from_it() -> None:
    pods = Pods.of([slice_pod("new"), slice_pod("theirs"), slice_pod("old", ended=True)])
    traces = find_traces(pods, set(), {"uid-theirs", "uid-old"})
    assert traces == Traces((), frozenset({"uid-theirs"}))
    assert traces.message.startswith("1 slice pod of nos left")


def test_nothing_left_is_nothing_said() -> None:
    assert find_traces(Pods.of([slice_pod("new")]), set(), set()).message == ""


def test_socket_tells_while_somebody_listens(short_path: Path) -> None:
    (short_path / "kubelet.sock").touch()
    assert not serves(short_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short_path / "nvidia-gpu-10gb.sock"))
        server.listen()
        assert serves(short_path)
    assert not serves(short_path)
