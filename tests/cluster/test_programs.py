"""What stands in for the chart's workloads when mpslice's programs run as processes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hack.cluster import programs
from hack.cluster.controlplane import ControlPlane
from hack.cluster.programs import MpslicePrograms
from hack.cluster.versions import KUBERNETES_VERSIONS, resolves_by_endpoints
from hack.cluster.waiting import wait_until
from tests.waiting import DEADLINE


def _service() -> dict[str, Any]:
    ports = [{"name": "https", "port": 443, "targetPort": 8443}, {"name": "ops", "port": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": programs.WEBHOOK_SERVICE},
        "spec": {"selector": {"app": "mpslice"}, "ports": ports},
    }


def _kinds(documents: list[dict[str, Any]]) -> list[str]:
    return [document["kind"] for document in documents]


def test_workloads_are_left_out_and_all_else_is_kept() -> None:
    rendered = [{"kind": kind} for kind in ("ClusterRole", "Deployment", "DaemonSet", "Secret")]
    kept = programs._for_processes(rendered, "198.18.0.1", 1, 2)
    assert _kinds(kept) == ["ClusterRole", "Secret"]


@pytest.mark.parametrize("by_endpoints", [False, True])
def test_webhook_service_leads_to_the_process(
    by_endpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "resolves_by_endpoints", lambda _version: by_endpoints)
    kept = programs._for_processes([_service()], "198.18.0.1", 31443, 31080)
    assert _kinds(kept) == ["EndpointSlice", *(["Endpoints"] if by_endpoints else []), "Service"]
    slice_, service = kept[0], kept[-1]
    assert "selector" not in service["spec"]
    assert slice_["endpoints"][0]["addresses"] == ["198.18.0.1"]
    assert [(p["name"], p["port"]) for p in slice_["ports"]] == [("https", 31443), ("ops", 31080)]


def test_endpoints_for_old_servers_say_what_is_ready() -> None:
    def piece(address: str, ready: bool) -> dict[str, Any]:
        port = {"name": "https", "port": 31443, "protocol": "TCP"}
        endpoint = {"addresses": [address], "conditions": {"ready": ready}}
        return {"endpoints": [endpoint], "ports": [port]}

    made = programs.endpoints("ns", "svc", [piece("198.18.0.1", True), piece("198.18.0.2", False)])
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("ns", "svc")
    (subset,) = made["subsets"]
    assert subset["addresses"] == [{"ip": "198.18.0.1"}]
    assert subset["ports"][0]["port"] == 31443
    assert [resolves_by_endpoints(version) for version in KUBERNETES_VERSIONS] == [True, False]


def test_programs_act_as_the_charts_service_accounts(
    control_plane: ControlPlane, mpslice_programs: MpslicePrograms
) -> None:
    for program in mpslice_programs.programs:
        kubeconfig = control_plane.cluster.component_kubeconfig(program.name)
        # The later of two flags is the one that holds.
        shown = control_plane.kubectl(
            f"--kubeconfig={kubeconfig}", "auth", "whoami", "--output=json"
        )
        user = json.loads(shown.stdout)["status"]["userInfo"]["username"]
        assert user == f"system:serviceaccount:{programs.NAMESPACE}:{program.name}"


def test_killed_program_comes_back_at_its_address(
    control_plane: ControlPlane, mpslice_programs: MpslicePrograms
) -> None:
    webhook = mpslice_programs.webhook
    before = webhook.pid
    webhook.kill()
    assert not webhook.running
    webhook.start()
    assert webhook.pid != before
    wait_until(lambda: programs.gates(control_plane), "webhook gates again", seconds=DEADLINE)
