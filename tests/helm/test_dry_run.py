"""Each combination of the mode values is accepted by the real API server, each object strictly."""

import itertools
import json
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster.controlplane import ControlPlane
from tests.chart import CHART
from tests.waiting import DEADLINE

pytestmark = pytest.mark.versions

Json = dict[str, Any]
NAMESPACE = "mpslice-system"

# What decides which objects there are and of what shape: every combination of these …
SHAPING: dict[str, tuple[str, ...]] = {
    "tls.mode": ("self-managed", "cert-manager", "secret"),
    "mps.hostIPC": ("true", "false"),
    "admission.failurePolicy": ("Fail", "Ignore"),
    "admission.workloads": ("true", "false"),
    "admission.policy.enabled": ("true", "false"),
    "webhook.hostNetwork": ("false", "true"),
}
# … and these, each of which adds an object or chooses a word in one whatever the others say, take
# turns among them: any two values of any two meet.
WORDS: dict[str, tuple[str, ...]] = {
    "admission.enforcement": ("deny", "warn"),
    "admission.devShm": ("deny", "strip"),
    "admission.tooLarge": ("warn", "deny"),
    "mps.compute": ("shared", "proportional"),
    "mps.criticalQuota": ("false", "true"),
    "mps.pipe": ("open", "sealed"),
    "mps.memoryUnit": ("GB", "GiB"),
    "monitoring.enabled": ("always", "never", "auto"),
    "networkPolicies.enabled": ("true", "false"),
    "planner.gate": ("true", "false"),
    "quota.enabled": ("true", "false"),
    "planner.ownWritesOnly": ("true", "false"),
    "webhook.ownWritesOnly": ("true", "false"),
    "admission.podSecurity.enabled": ("true", "false"),
    "admission.podSecurity.clusterDefault": ("privileged", "baseline"),
    "simulatedGPUs": ("null", '[{"uuid": "GPU-1", "memoryMiB": 81920}]'),
}
_SEED = 1  # the same turns in every run
# What a user may add, which changes no other object.
_PROGRAM: Json = {
    "serviceAccount": {"annotations": {"example.com/role": "one"}},
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca", "optional": True}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com"}],
    "podLabels": {"example.com/cost": "gpu"},
    "podAnnotations": {"sidecar.istio.io/inject": "false"},
}
_NAMES: Json = {
    "dnsPolicy": "None",
    "dnsConfig": {"nameservers": ["192.0.2.1"], "options": [{"name": "ndots", "value": "2"}]},
}
_SPREAD: Json = {
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
        }
    ]
}
ADDED: Json = {
    "commonLabels": {"team": "ml-platform"},
    "commonAnnotations": {"example.com/owner": "ml-platform"},
    "revisionHistoryLimit": 2,
    "crds": {"annotations": {"argocd.argoproj.io/sync-options": "ServerSideApply=true"}},
    "uninstall": {"removeGates": True},
    "jobs": {"affinity": {"nodeAffinity": {}}, "extraEnv": _PROGRAM["extraEnv"]},
    "monitoring": {"serviceAnnotations": {"prometheus.io/scrape": "true"}},
    "mps": _PROGRAM,
    "webhook": {**_PROGRAM, **_NAMES, **_SPREAD, "serviceAnnotations": {"example.com/a": "b"}},
    "planner": {**_PROGRAM, **_NAMES, **_SPREAD},
    "nodeAgent": {**_PROGRAM, **_NAMES},
}
FOREIGN_KINDS = {
    "monitoring.coreos.com/v1": ("ServiceMonitor", "PodMonitor", "PrometheusRule"),
    "cert-manager.io/v1": ("Certificate", "Issuer"),
}


def combinations() -> Iterator[dict[str, str]]:
    turns = list(itertools.product(*WORDS.values()))
    random.Random(_SEED).shuffle(turns)
    for shape, words in zip(itertools.product(*SHAPING.values()), turns, strict=False):
        yield dict(zip([*SHAPING, *WORDS], [*shape, *words], strict=True))


def arguments(values: dict[str, str]) -> list[str]:
    return [
        f"--set-json={name}={value}" if name == "simulatedGPUs" else f"--set={name}={value}"
        for name, value in values.items()
    ]


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """With the kinds of other projects that the chart makes, as far as the API server looks."""
    kinds = [_kind(api, kind) for api, names in FOREIGN_KINDS.items() for kind in names]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    _apply(control_plane, [*kinds, namespace])
    names = [f"crd/{kind['metadata']['name']}" for kind in kinds]
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=120s", *names)
    yield control_plane
    control_plane.kubectl("delete", *names, "--wait=false")


def _kind(api: str, kind: str) -> Json:
    group, _, version = api.partition("/")
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{**served, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def _apply(plane: ControlPlane, documents: list[Json], *flags: str) -> None:
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    plane.kubectl("apply", "--server-side", "--filename=-", *flags, input=manifest)


def test_any_two_values_meet_in_a_combination() -> None:
    every = list(combinations())
    modes = SHAPING | WORDS
    for one, other in itertools.combinations(modes, 2):
        met = {(values[one], values[other]) for values in every}
        assert met == set(itertools.product(modes[one], modes[other])), (one, other)


def test_every_combination_of_the_modes_is_accepted(plane: ControlPlane) -> None:
    def render(values: dict[str, str]) -> str:
        command = [str(plane.parts.helm), "template", "mpslice", str(CHART)]
        options = [f"--namespace={NAMESPACE}", "--api-versions=monitoring.coreos.com/v1"]
        done = subprocess.run(
            [*command, *options, *arguments(values)],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 0, f"{values}: {done.stderr}"
        return done.stdout

    with ThreadPoolExecutor(2) as pool:
        outputs = pool.map(render, combinations())
        texts = {text for output in outputs for text in output.split("\n---\n")}
    # The same object is asked about once, however many combinations have it.
    documents = [yaml.load(text, yaml.CSafeLoader) for text in sorted(texts)]
    _apply(plane, documents, "--dry-run=server", "--force-conflicts", "--validate=strict")


def test_whatever_a_user_adds_is_accepted(plane: ControlPlane, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(ADDED))
    command = [str(plane.parts.helm), "template", "mpslice", str(CHART), f"--values={values}"]
    done = subprocess.run(
        [*command, f"--namespace={NAMESPACE}"], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    documents = [each for each in yaml.safe_load_all(done.stdout) if each]
    _apply(plane, documents, "--dry-run=server", "--force-conflicts", "--validate=strict")
