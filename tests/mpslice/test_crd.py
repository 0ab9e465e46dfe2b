"""The codec and the chart's CRD describe the same object; what one lacks would be pruned."""

from collections.abc import Iterator
from typing import Any

import yaml

from mpslice.nodelayout import parse_node_layout, spec_to_json, status_to_json
from tests.chart import CHART
from tests.mpslice.test_nodelayout import a_layout


def schema() -> dict[str, Any]:
    lines = (CHART / "templates" / "crd.yaml").read_text().splitlines()
    # Only the labels are templated, and they are not looked at here.
    crd = yaml.safe_load("\n".join(line for line in lines if "{{" not in line))
    version = crd["spec"]["versions"][0]
    assert version["name"] == "v1alpha1"
    properties: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]
    return properties


def described(node: dict[str, Any], path: str) -> Iterator[str]:
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from described(child, f"{path}.{name}")
    if "items" in node:
        yield from described(node["items"], f"{path}[]")


def written(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from written(item, f"{path}[]")
    elif isinstance(value, dict) and not path.endswith("spec.gpus[].slices"):
        for name, child in value.items():
            yield f"{path}.{name}"
            yield from written(child, f"{path}.{name}")


def test_every_field_that_is_written_is_described_and_the_other_way_round() -> None:
    layout = a_layout()
    assert layout.status is not None
    status = status_to_json(layout.status)
    status["gpus"][0]["reason"] = "XidError"
    obj = {"spec": spec_to_json(layout.spec), "status": status}
    fields = {name for part in obj for name in written(obj[part], part)}
    known = {name for part, node in schema().items() for name in described(node, part)}
    assert fields == known


def test_states_and_conditions_are_those_of_the_codec() -> None:
    gpus = schema()["status"]["properties"]["gpus"]["items"]["properties"]
    states = gpus["slices"]["items"]["properties"]["state"]["enum"]
    for state in states:
        entry = {"id": "GPU-1::10::0", "state": state}
        gpu = {"uuid": "GPU-1", "index": 0, "memoryMiB": 1, "capacityGB": 1, "slices": [entry]}
        layout = parse_node_layout({"metadata": {"name": "n"}, "status": {"gpus": [gpu]}})
        assert layout.status is not None
        assert layout.status.gpus[0].slices[0].state == state
