"""What stands in for the chart's workloads when mpslice's programs run as processes."""

from __future__ import annotations

import json
from typing import Any

from hack.cluster import programs
from hack.cluster.controlplane import ControlPlane
from hack.cluster.programs import MpslicePrograms
from hack.cluster.waiting import wait_until


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


def test_webhook_service_leads_to_the_process() -> None:
    kept = programs._for_processes([_service()], "198.18.0.1", 31443, 31080)
    assert _kinds(kept) == ["EndpointSlice", "Service"]
    slice_, service = kept
    assert "selector" not in service["spec"]
    assert slice_["endpoints"][0]["addresses"] == ["198.18.0.1"]
    assert [(p["name"], p["port"]) for p in slice_["ports"]] == [("https", 31443), ("ops", 31080)]


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
    wait_until(lambda: programs.gates(control_plane), "webhook gates again", seconds=30)
