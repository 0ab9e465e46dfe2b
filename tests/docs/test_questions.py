"""The manifests on the page of questions are let in and have a place."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.blocks import PAGES
from tests.docs.test_pages import CHECKOUT, page
from tests.waiting import DEADLINE
from webhook.offline import admit
from webhook.settings import Settings

Json = dict[str, Any]


def manifests() -> list[Json]:
    """The manifests in the page's YAML blocks, in order."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page("questions.md"), re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


def pods(manifest: Json) -> list[Json]:
    """The pods that a manifest leads to, as far as this page has kinds."""
    spec = manifest["spec"]
    if manifest["kind"] == "Pod":
        return [manifest]
    if manifest["kind"] == "RayCluster":
        return [group["template"] for group in spec["workerGroupSpecs"]]
    return [spec["template"]]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda each: each["metadata"]["name"])
def test_pods_of_the_page_are_let_in_without_a_warning(manifest: Json) -> None:
    for pod in pods(manifest):
        body = {"metadata": {"name": "one", "namespace": "default"}, "spec": pod["spec"]}
        verdict = admit(body, Settings()).verdict
        assert verdict.allowed, verdict
        assert verdict.warnings == ()
        assert verdict.patch, "the webhook took it for a pod without a slice"


def test_every_pod_of_the_page_has_a_place_on_the_nodes_of_the_examples(tmp_path: Path) -> None:
    planned = [each for each in manifests() if each["kind"] in ("Pod", "Deployment")]
    (tmp_path / "page.yaml").write_text(yaml.safe_dump_all(planned))
    nodes = PAGES.parent / "examples" / "nodes.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "plan", f"-f={tmp_path}", f"-f={nodes}", "-o=json"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(told["placed"]) == len(planned)


@pytest.mark.parametrize(
    ("total", "share"),
    [(81_920, 0.95 * 0.25), (20_480, 0.95), (19_000, 0.95)],
    ids=["the GPU", "the slice", "less than the slice"],
)
def test_share_that_vllm_is_given_is_of_the_total_that_cuda_tells(
    total: int, share: float, tmp_path: Path
) -> None:
    """The manifest's own shell, with a torch that tells the total in MiB."""
    (tmp_path / "torch.py").write_text(
        f"class cuda:\n    mem_get_info = staticmethod(lambda: (0, {total} * 2**20))\n"
    )
    (tmp_path / "vllm").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "vllm").chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    (vllm,) = (each for each in manifests() if each["metadata"]["name"] == "vllm")
    (container,) = vllm["spec"]["containers"]
    done = subprocess.run(
        [*container["command"], *container["args"]],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(tmp_path),
            "MPSLICE_MEMORY_MIB": "20480",
        },
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.strip().rpartition("=")[2]) == pytest.approx(share)
