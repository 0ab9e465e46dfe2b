"""Every command of the quick start and the user guide, typed as it stands, on a real cluster.

Three things are put in the place of others: the node's name, the images (of which this machine has
one), and the registry; the GPUs are simulated.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.images import BUSYBOX_IMAGE
from hack.cluster.progress import Say
from tests.chart import CHART
from tests.docs.blocks import Command, commands
from tests.e2e.cluster import until
from tests.helm.release import NAMESPACE, RELEASE, Release
from tests.waiting import DEADLINE

# Before the tests that share the session's node: a machine can have one.
pytestmark = [pytest.mark.usefixtures("machine_without_node")]

IMAGE = "nvcr.io/nvidia/cuda:12.4.1-base-ubuntu22.04"
REGISTRY = "registry.example.com/mpslice"
LOOKS = tuple(f"kubectl {verb} " for verb in ("get", "describe", "logs", "exec", "mpslice"))
_SECONDS = 600


class Reader:
    """Somebody who types what a page says."""

    def __init__(self, release: Release, programs: Path) -> None:
        self._release = release
        parts = release.plane.parts
        helm = programs / "helm"
        # `helm install` with what a machine without a registry and without GPUs needs besides.
        helm.write_text(
            f'#!/bin/sh\ncase $1 in install) set -- "$@" --values={release.values};; esac\n'
            f'exec {parts.helm} "$@"\n'
        )
        helm.chmod(0o755)
        (programs / "kubectl").symlink_to(parts.kubectl)
        path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        kubeconfig = str(release.plane.kubeconfig)
        self._environment = {**os.environ, "PATH": ":".join(path), "KUBECONFIG": kubeconfig}
        self._environment["COLUMNS"] = "120"

    def type(self, command: Command) -> str:
        """What the command printed, errors included; it has to end with 0."""
        done = subprocess.run(
            ["bash", "-c", self._here(command.text)],
            cwd=CHART.parent.parent,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
        output = done.stdout.replace(self._release.node.name, "gpu-1")
        assert done.returncode == 0, f"{command.title}: {output}{self._release.trouble()}"
        return output

    def _here(self, text: str) -> str:
        text = re.sub(r"\bgpu-1\b", self._release.node.name, text)
        text = text.replace("--timeout=60s", f"--timeout={DEADLINE:.0f}s")
        return text.replace(IMAGE, BUSYBOX_IMAGE).replace(REGISTRY, "localhost/mpslice")

    def read(self, page_commands: list[Command]) -> None:
        """Types all of them; each shows what the page says."""
        for command in page_commands:
            output = self.type(command)
            if command.text.startswith(LOOKS) and command.missing(output):
                output = self._again(command)
            missing = command.missing(output)
            assert not missing, f"{command.title}\nlacks {missing}\nin {output}"

    def _again(self, command: Command) -> str:
        """Types what only looks until it shows what the page says: pods may have just started."""
        outputs: list[str] = []

        def shown() -> bool:
            outputs.append(self.type(command))
            return not command.missing(outputs[-1])

        until(shown, f"{command.title} shows what the page says")
        return outputs[-1]


@pytest.fixture
def reader(place: Release, tmp_path: Path) -> Iterator[Reader]:
    place.helm("uninstall", RELEASE, "--no-hooks", "--ignore-not-found", "--wait")
    yield Reader(place, tmp_path)
    place.plane.kubectl("delete", "deployments,pods", "--all", "--wait=true")
    place.helm("uninstall", RELEASE, "--no-hooks", "--ignore-not-found", "--wait")
    place.plane.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")


def test_the_pages_commands_do_what_the_pages_say(reader: Reader, cluster_say: Say) -> None:
    quick_start, guide = commands("quick-start.md"), commands("user-guide.md")
    (clean_up,) = [n for n, c in enumerate(quick_start) if c.title.startswith("kubectl delete pod")]
    assert len(quick_start) > 8
    assert len(guide) > 8
    reader.read(quick_start[:clean_up])
    reader.read(guide)
    reader.read(quick_start[clean_up:])
    cluster_say(f"  {len(quick_start) + len(guide)} commands of the documentation")
