"""The page's Application, compared and synced with the cluster by Argo CD's own libraries."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hack.cluster.versions import ARGO_CD, KUBERNETES
from tests.chart import CHART
from tests.docs.test_pages import page
from tests.helm.release import NAMESPACE, RELEASE, Release
from tests.helm.test_gitops import VALUES

Json = dict[str, Any]
_SECONDS = 180
SETTINGS = "argocd"
"""The namespace of Argo CD itself, with its settings."""

MODES = ("server-side apply", "server-side diff", "client-side apply")
"""How Argo CD compares: by the fields that it owns, as the page's Application lets it; by what the
API server answers in dry run; and by the annotation of the last apply."""


def application(mode: str) -> Json:
    """The page's Application, told to compare in this mode."""
    (found,) = (
        yaml.safe_load(block.partition("```")[0])
        for block in page("gitops.md").split("```yaml\n")
        if "kind: Application\n" in block
    )
    if mode == "server-side diff":
        annotations = {"argocd.argoproj.io/compare-options": "ServerSideDiff=true"}
        found["metadata"]["annotations"] = annotations
    if mode == "client-side apply":
        found["spec"]["syncPolicy"]["syncOptions"].remove("ServerSideApply=true")
    return dict(found)


@dataclass(frozen=True)
class ArgoCD:
    """Argo CD, whose repository has the chart with the values of this release, and objects of every
    kind that it can have."""

    release: Release
    folder: Path

    def prepare(self) -> None:
        """Makes Argo CD's settings, all of them its defaults."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SETTINGS}}
        labels = {"app.kubernetes.io/part-of": "argocd"}
        metadata = {"name": "argocd-cm", "namespace": SETTINGS, "labels": labels}
        settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [namespace, settings]})
        self.release.plane.kubectl("apply", "--filename=-", input=text)

    def objects(self) -> list[Json]:
        """What Argo CD's `helm template` renders, hooks included."""
        command = [
            *(str(self.release.plane.parts.helm), "template", RELEASE, str(CHART)),
            f"--namespace={NAMESPACE}",
            f"--values={self.release.values}",
            *(f"--set={value}" for value in VALUES["everything"]),
            f"--kube-version=v{KUBERNETES.version}",
            "--include-crds",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    def compare(self, wanted: Json) -> Json:
        """The status of the Application and of each resource."""
        return self._run(wanted)

    def sync(self, wanted: Json) -> Json:
        """The same from before the sync, and what the sync did."""
        done = self._run(wanted, "-sync")
        assert done["phase"] == "Succeeded", (done["message"], done["applied"])
        return done

    def _run(self, wanted: Json, *flags: str) -> Json:
        described, rendered = self.folder / "application.yaml", self.folder / "rendered.json"
        described.write_text(yaml.safe_dump(wanted))
        listed = {"apiVersion": "v1", "kind": "List", "items": self.objects()}
        rendered.write_text(json.dumps(listed))
        plane = self.release.plane
        command = [
            str(plane.parts.neighbour(ARGO_CD) / "argo-cd"),
            f"-kubeconfig={plane.kubeconfig}",
            f"-application={described}",
            f"-manifests={rendered}",
            *flags,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        assert done.returncode == 0, done.stderr[-4000:]
        found: Json = json.loads(done.stdout)
        return found


def out_of_sync(compared: Json) -> dict[str, tuple[Json, Json]]:
    """The resources that differ, as `kind/name`: what is there, and what a sync would make."""
    return {
        f"{each['kind']}/{each['name']}": (each["live"], each["predicted"])
        for each in compared["resources"]
        if each["status"] == "OutOfSync"
    }
