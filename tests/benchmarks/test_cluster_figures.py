"""The parts of the cluster benchmark that need no cluster: what is read of logs, and the load."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.cluster import audit
from benchmarks.cluster.__main__ import command
from benchmarks.cluster.crowd import Moments, project
from benchmarks.cluster.figures import changed_hands, quantile, waits
from benchmarks.cluster.load import Life, lives, steady
from benchmarks.cluster.run import Options
from benchmarks.cluster.samples import Flow, bound_gb, flow_of, take
from benchmarks.cluster.usage import connections, usage_of
from planner.words.condition import AVAILABLE

ACCOUNT = "system:serviceaccount:mpslice-system:mpslice-"


def line(user: str, verb: str, resource: str, sub: str = "", **more: Any) -> dict[str, Any]:
    """A line of an API server's audit log."""
    return {
        "stage": "ResponseComplete",
        "verb": verb,
        "requestURI": f"/api/v1/{resource}?{more.get('query', '')}",
        "user": {"username": user},
        "userAgent": more.get("agent", ""),
        "objectRef": {"resource": resource, "subresource": sub, "name": "x"},
        "responseStatus": {"code": more.get("code", 200)},
        "requestReceivedTimestamp": "2026-01-01T00:00:01.000000Z",
        "stageTimestamp": "2026-01-01T00:00:01.250000Z",
    }


def traffic(*lines: dict[str, Any]) -> audit.Traffic:
    return audit.traffic(request for each in lines if (request := audit.parse(each)))


def test_a_line_becomes_a_request() -> None:
    request = audit.parse(line(ACCOUNT + "planner", "patch", "pods"))
    assert request is not None
    assert (request.component, request.kind, request.name) == ("planner", "gate", "x")
    assert request.seconds == pytest.approx(0.25)


def test_the_end_of_a_watch_is_no_request() -> None:
    assert audit.parse(line(ACCOUNT + "planner", "watch", "pods")) is None


def test_the_log_is_read_between_two_moments(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    file.write_text(json.dumps(line("system:kube-scheduler", "get", "pods")) + "\n{half a li")
    assert len(list(audit.read(file))) == 1
    assert list(audit.read(file, since=2e9)) == []


@pytest.mark.parametrize(
    ("user", "agent", "who"),
    [
        (ACCOUNT + "nodeagent", "", "agents"),
        ("system:kube-scheduler", "", "kube-scheduler"),
        ("system:serviceaccount:kube-system:job-controller", "", "controller-manager"),
        ("admin", "mpslice-bench-kubelets/1", "kubelets (played)"),
        ("admin", "mpslice-bench/1", "benchmark"),
    ],
)
def test_who_asks_is_known_by_the_account(user: str, agent: str, who: str) -> None:
    assert audit.component(user, agent) == who


def test_writes_of_a_life_leave_out_events_leases_refusals_and_other_peoples() -> None:
    found = traffic(
        line(ACCOUNT + "planner", "patch", "nodelayouts"),
        line(ACCOUNT + "planner", "patch", "pods", code=409),
        line(ACCOUNT + "planner", "create", "events"),
        line(ACCOUNT + "planner", "update", "leases"),
        line(ACCOUNT + "agents", "patch", "nodes", "status"),
        line(ACCOUNT + "nodeagent", "patch", "nodes", "status"),
        line(ACCOUNT + "nodeagent", "patch", "nodelayouts", "status"),
    )
    assert found.life() == {"layout": 1, "node status": 1, "layout status": 1}
    assert found.failures == {("planner", 409): 1}
    assert found.of("planner") == 4


def test_lists_that_begin_anew_are_told_from_pages_and_from_looks_before_a_withdrawal() -> None:
    agent, selector = ACCOUNT + "nodeagent", "fieldSelector=spec.nodeName"
    found = traffic(
        line(ACCOUNT + "planner", "list", "nodes", query="limit=500"),
        line(ACCOUNT + "planner", "watch", "nodes") | {"stage": "ResponseStarted"},
        line(ACCOUNT + "planner", "list", "nodes", query="limit=500&continue=abc"),
        line(agent, "list", "pods", query=f"{selector}%3Dn1"),
        line(agent, "list", "pods", query=f"{selector}%3D%2Cstatus.phase%3DPending"),
        line(agent, "list", "pods", query=f"{selector}%3Dn1"),  # one may have been bound meanwhile
    )
    assert (found.looks, found.rewatches) == (1, 1)
    assert found.relists == {"planner: nodes": 1}


def test_bytes_are_those_of_each_connection() -> None:
    text = (
        'ESTAB 0 0 10.0.0.1:5 10.0.0.1:6443 users:(("python",pid=7,fd=8)) bbr rto:204 '
        "bytes_sent:100 bytes_acked:101 bytes_received:2000 segs_out:3\n"
        "ESTAB 0 0 10.0.0.1:6 10.0.0.1:6443 cubic bytes_sent:5\n"
    )
    assert list(connections(text)) == [(7, "10.0.0.1:5", 2100)]


def test_this_process_uses_memory_and_its_cpu_time_grows() -> None:
    before = usage_of(os.getpid())
    while usage_of(os.getpid()).cpu == before.cpu:
        sum(range(100_000))
    assert before.peak_mib >= before.mib > 1


def test_lives_without_the_trace_are_like_its() -> None:
    made = lives(None, 80)
    seconds = sorted(life.seconds for life in made)
    assert quantile(seconds, 0.5) == pytest.approx(435, rel=0.1)
    assert sum(life.gb for life in made) / len(made) == pytest.approx(45, rel=0.05)
    assert made == lives(None, 80)


def test_steady_pods_ask_for_the_load_from_the_beginning_and_come_at_the_rate() -> None:
    coming = steady(
        lives(None, 80),
        capacity_gb=6400,
        load=0.9,
        rate=10,
        seconds=200,
        dice=random.Random(1),
    )
    asked = sum(life.gb for life in coming.first)
    assert 0.9 * 6400 <= asked < 0.9 * 6400 + 80
    assert len(coming.later) == pytest.approx(2000, rel=0.1)
    offered = sum(life.gb_seconds for _, life in coming.later) / 200
    assert offered == pytest.approx(0.9 * 6400, rel=0.3)  # few pods live long, and they count most


def test_waits_are_told_of_those_that_got_so_far() -> None:
    pods = [Moments(created=1.0, bound=1.0 + n / 1000) for n in range(1, 101)]
    found = waits([*pods, Moments(created=5.0)], "bound")
    assert found == {"pods": 100, "median_ms": 50.5, "p99_ms": 99.0}
    assert waits([], "bound")["median_ms"] is None


def test_a_gate_that_goes_from_a_pod_without_room_is_no_carve() -> None:
    assert Moments(created=1.0, carved=2.0, bound=3.0).had_room
    assert not Moments(created=1.0, carved=2.0).had_room
    assert not Moments(created=1.0, carved=2.0, told=2.5, bound=9.0).had_room


@pytest.mark.parametrize(("reason", "told"), [("GPUMemory", True), ("Carving", False)])
def test_a_pod_is_told_why_by_its_condition_unless_its_slices_are_being_made(
    reason: str, told: bool
) -> None:
    condition = {"type": AVAILABLE, "status": "False", "reason": reason}
    pod = {"metadata": {"name": "p"}, "spec": {}, "status": {"conditions": [condition]}}
    assert project(pod).told is told


def test_a_sample_counts_bound_pods_as_used_and_waiting_ones_as_live() -> None:
    pods = {
        "used": Moments(gb=10, created=1.0, bound=2.0),
        "waits": Moments(gb=20, created=1.0),
        "ended": Moments(gb=40, created=1.0, bound=2.0, ended=3.0),
        "plain": Moments(created=1.0, bound=2.0),
    }
    sample = take(pods, 0.0)
    assert (sample.used_gb, sample.live) == (10, ("used", "waits"))


def test_what_the_api_server_queued_is_told_of_our_level_alone() -> None:
    metrics = """\
apiserver_flowcontrol_dispatched_requests_total{flow_schema="mpslice",priority_level="mpslice"} 7
apiserver_flowcontrol_dispatched_requests_total{flow_schema="exempt",priority_level="exempt"} 9
apiserver_flowcontrol_rejected_requests_total{flow_schema="mpslice",reason="queue-full"} 2
apiserver_flowcontrol_request_wait_duration_seconds_sum{execute="true",flow_schema="mpslice"} 0.5
apiserver_flowcontrol_request_wait_duration_seconds_count{execute="true",flow_schema="mpslice"} 7
"""
    assert flow_of(metrics) == Flow(7, 2, 0.5)


def test_the_bound_is_what_fits_at_most() -> None:
    assert bound_gb(1, 8, [Life(50, 100, 100, 1.0)] * 12) == pytest.approx(400)


def test_the_command_names_the_options_that_differ() -> None:
    assert command(Options(100, burst=5)) == "python -m benchmarks.cluster --nodes 100 --burst 5"
    assert command(Options(10)) == "python -m benchmarks.cluster"


def test_memory_that_changes_hands_is_that_of_the_pods_bound_meanwhile() -> None:
    pods = [Moments(gb=gb, bound=at) for gb, at in ((10, 1.0), (20, 3.0), (40, 5.0), (80, 9.0))]
    assert changed_hands([*pods, Moments(gb=160)], 1.0, 5.0) == 15.0
    assert changed_hands(pods, 5.0, 5.0) == 0.0


def test_command_of_a_run_names_the_phases_that_it_was_kept_to() -> None:
    assert command(Options(10)) == "python -m benchmarks.cluster"
    some = Options(1000, phases=("burst", "unplaceable"))
    assert command(some) == "python -m benchmarks.cluster --nodes 1000 --phases burst unplaceable"


def planner_run(**machine: Any) -> dict[str, Any]:
    """The figures of the planner alone, as they are kept."""
    run = results.kept()[0]
    cost = {
        "core_percent": 9.9,
        "pod_events_a_second": 10.1,
        "decisions_a_second": 1.2,
        "ms_a_decision": None,
    }
    return {
        **{name: run[name] for name in ("command", "date", "versions", "drawn_from")},
        "machine": {**run["machine"], **machine},
        "nodes": 1000,
        "pods": 10_000,
        "start_to_first_plan_s": 4.5,
        "start_to_first_plan_cpu_s": 3.5,
        "most_mib": 111,
        "at_rest": cost,
        "busy": cost,
        "lived": 7,
        "harm": {"failed kubelet admissions": 0},
    }


def test_the_page_of_results_has_what_is_wanted_beside_what_was_found() -> None:
    text = results.page([planner_run(load_before=0.1, cores=2), *results.kept()])
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    memory = next(row for row in rows if "planner: most memory" in row[0])
    assert "≤ 250" in memory[1]
    assert "111" in memory
    head = next(row for row in rows if row[0] == "| what")
    assert head[memory.index("111")] == "1,000 nodes, planner alone"
    busy = results.page([planner_run(load_before=8.0, cores=2)])
    assert "1,000 nodes, planner alone (busy machine)" in busy


def test_the_page_of_results_says_that_other_work_had_the_machine() -> None:
    run = results.kept()[0]
    busy = {**run, "machine": {**run["machine"], "cores": 2, "load_before": 9.5}}
    idle = {**run, "machine": {**run["machine"], "cores": 2, "load_before": 0.1}}
    assert "its load was 9.5 on 2" in results.page([busy])
    assert "Nothing else ran" in results.page([idle])


def test_the_page_of_results_is_made_from_the_figures_that_are_kept() -> None:
    assert results.PAGE.read_text() == results.page(results.kept()), (
        "run `python -m benchmarks.results`"
    )
