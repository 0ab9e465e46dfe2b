"""Mutators and constraints of Gatekeeper, each for pods with a label of its own."""

from collections.abc import Sequence
from typing import Any

import yaml

from hack.cluster.controlplane import ControlPlane
from hack.cluster.waiting import wait_until
from tests.docs.test_pages import page
from tests.neighbours import charts
from tests.waiting import DEADLINE

Json = dict[str, Any]
LABEL = "policy"
"""By whose value mutators and constraints know their pods."""
CONTAINERS = "spec.containers[name:*]"


def mutator(
    name: str, location: str, value: object, *, kind: str = "Assign", operations: Sequence[str] = ()
) -> Json:
    """A mutator of the pods whose label LABEL is the first word of its name.

    It changes them in these operations, without any in all.
    """
    spec: Json = {
        "match": {"labelSelector": {"matchLabels": {LABEL: label_of(name)}}},
        "location": location,
        "parameters": {"assign": {"value": value}},
    }
    if kind == "ModifySet":
        spec["parameters"] = {"operation": "merge", "values": {"fromList": value}}
    if kind != "AssignMetadata":
        applied: Json = {"groups": [""], "versions": ["v1"], "kinds": ["Pod"]}
        spec["applyTo"] = [{**applied, "operations": list(operations)} if operations else applied]
    version = "mutations.gatekeeper.sh/v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def label_of(name: str) -> str:
    """What LABEL says on the pods that a mutator of this name changes."""
    return name.partition("-")[0]


ADDING = (
    mutator("adds-team", "metadata.labels.team", "a", kind="AssignMetadata"),
    mutator("adds-variable", f"{CONTAINERS}.env[name:TEAM].value", "a"),
    mutator("adds-toleration", "spec.tolerations", [{"key": "gpu"}], kind="ModifySet"),
    mutator("adds-policy", f"{CONTAINERS}.imagePullPolicy", "IfNotPresent"),
    mutator("adds-profile", "spec.securityContext.seccompProfile.type", "RuntimeDefault"),
    mutator("adds-drop", f"{CONTAINERS}.securityContext.capabilities.drop", ["ALL"]),
)
"""What people have policy engines add to every pod."""


def constraint(plane: ControlPlane, label: str, *, slices: bool) -> Json:
    """The constraint of docs/beside-others.md for pods with this label, once its kind is served."""
    _, _, section = page("beside-others.md").partition("## Gatekeeper\n")
    template, found = (
        yaml.safe_load(block.partition("```")[0]) for block in section.split("```yaml\n")[1:]
    )
    charts.apply(plane, [template])
    name = f"{found['kind'].lower()}.constraints.gatekeeper.sh"
    wait_until(
        lambda: plane.api.find(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"),
        "Gatekeeper makes the kind of the constraint",
        seconds=DEADLINE,
    )
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{name}")
    match = {**found["spec"]["match"], "labelSelector": {"matchLabels": {LABEL: label}}}
    parameters = {**found["spec"]["parameters"], "slices": slices}
    spec = {"match": match, "parameters": parameters}
    return {**found, "metadata": {"name": label}, "spec": spec}
