"""`kubectl mpslice ungate`: the gate goes from pods, with nothing of mpslice's in the cluster."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.gates import gated, is_installed
from cli.main import main
from hack.cluster.controlplane import ControlPlane
from mpslice.kube.errors import NotFound
from planner.model.pods import GATE

Json = dict[str, Any]
OTHERS = "example.com/quota"


def pod(name: str, *gates: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "a", "uid": f"uid-{name}", "resourceVersion": "7"},
        "spec": {
            "schedulingGates": [{"name": gate} for gate in gates],
            "containers": [{"name": "main", "image": "none"}],
        },
    }


def test_only_pods_with_our_gate_are_found() -> None:
    found = list(gated([pod("plain"), pod("theirs", OTHERS), pod("ours", GATE)]))
    assert [str(each) for each in found] == ["a/ours carries the gate mpslice.io/carve"]


def test_a_pod_that_waits_for_others_is_told_so() -> None:
    (found,) = gated([pod("both", OTHERS, GATE)])
    assert str(found).endswith(f"mpslice.io/carve, and waits for {OTHERS}")


@pytest.mark.parametrize("there", [True, False])
def test_mpslice_is_installed_while_its_webhook_is(there: bool) -> None:
    class Kube:
        async def read(self, _resource: object, name: str) -> Json:
            if not there:
                raise NotFound(name, status=404)
            return {}

    assert asyncio.run(is_installed(Kube())) is there  # type: ignore[arg-type]  # the part asked


class Person:
    """Types `kubectl mpslice ungate` on a cluster without mpslice, in one namespace."""

    def __init__(self, plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> None:
        self._plane = plane
        self._capsys = capsys

    def ungate(self, *flags: str) -> tuple[int, str]:
        kubeconfig = f"--kubeconfig={self._plane.kubeconfig}"
        with pytest.raises(SystemExit) as ended:
            main(["ungate", kubeconfig, "--namespace=half-removed", *flags])
        assert isinstance(ended.value.code, int)
        return ended.value.code, self._capsys.readouterr().out

    def gates(self, name: str) -> list[str]:
        found = self._plane.api.get(f"/api/v1/namespaces/half-removed/pods/{name}")
        return [gate["name"] for gate in found["spec"].get("schedulingGates", [])]


@pytest.fixture
def person(
    control_plane: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Person]:
    made = [pod("ours", GATE), pod("both", OTHERS, GATE), pod("theirs", OTHERS)]
    for each in made:
        each["metadata"] = {"name": each["metadata"]["name"], "namespace": "half-removed"}
        each["spec"]["automountServiceAccountToken"] = False
    names = {"name": "half-removed"}
    account = {"name": "default", "namespace": "half-removed"}
    documents = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": names},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        *made,
    ]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    control_plane.kubectl("apply", "--server-side", "--filename=-", input=manifest)
    yield Person(control_plane, capsys)
    control_plane.kubectl("delete", "namespace", "half-removed", "--wait=false")


def test_ungate_takes_our_gate_and_no_other(person: Person) -> None:
    status, said = person.ungate("--dry-run")
    assert status == 1
    assert len(said.splitlines()) == 2
    assert (person.gates("ours"), person.gates("both")) == ([GATE], [OTHERS, GATE])
    status, said = person.ungate()
    assert status == 0
    assert sorted(said.splitlines()) == [
        "half-removed/both: the gate is taken away",
        "half-removed/ours: the gate is taken away",
    ]
    assert (person.gates("ours"), person.gates("both")) == ([], [OTHERS])
    assert person.gates("theirs") == [OTHERS]
    assert person.ungate() == (0, "")
