"""What is printed, for people and for programs."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Given
from tests.cli.plan.given import Run, asking, gpu, layout, node, pod, workload
from tests.waiting import DEADLINE

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_examples_show_verdicts_bars_placements_and_a_reason(run: Run) -> None:
    run("plan", "-f", EXAMPLES)
    assert run.status == 1
    for text in (
        "Refused at admission\n  default/two-slices: MultipleSlices: ",
        "ask for nvidia.com/gpu-20gb: 1",
        "GPUs that change\n  a100-1  NVIDIA-A100-SXM4-80GB\n    GPU 0  85gb  ▌▓",
        "  search/embedder ×6: 12gb on a100-1 GPU 0-1\n",
        "  default/too-large: 96gb: 0 of 2 nodes: 2 GPUTooSmall (largest 85gb)\n",
        "2 of 3 GPUs touched, on 1 of 2 nodes; of 218gb 0gb are used, 128gb go to pods of",
    ):
        assert text in run.out


def test_readme_shows_what_the_demo_prints(run: Run) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text()
    shown = readme.partition("$ make demo\n")[2].partition("\n```\n")[2].partition("\n```")[0]
    printed = run("plan", "-f", EXAMPLES).out
    lines = [line for line in shown.splitlines() if line]
    assert len(lines) > 5
    assert [line for line in lines if line not in printed.splitlines()] == []


def test_json_has_the_form_that_other_programs_rely_on(run: Run) -> None:
    report = run("plan", "-f", EXAMPLES, "-o", "json").json
    assert set(report["seconds"]) == {"read", "plan"}
    assert [entry["reason"] for entry in report["rejected"]] == ["MultipleSlices"]
    assert report["unplaced"] == [
        {
            "pod": "default/too-large",
            "reason": "GPUTooSmall",
            "message": "96gb: 0 of 2 nodes: 2 GPUTooSmall (largest 85gb)",
        }
    ]
    chat = next(entry for entry in report["placed"] if entry["pod"] == "default/chat")
    assert chat["node"] == "a100-1"
    assert chat["slices"] == [
        {"container": "model", "size": "40gb", "gpu": "a100-1-gpu-0"},
        {"container": "reranker", "size": "6gb", "gpu": "a100-1-gpu-0"},
    ]
    assert report["layouts"] == {
        "a100-1": {
            "a100-1-gpu-0": {"6gb": 1, "12gb": 3, "40gb": 1},
            "a100-1-gpu-1": {"10gb": 1, "12gb": 3},
        }
    }
    assert report["withdrawn"] == 0
    (warning,) = report["warnings"]
    assert (warning["object"], warning["reason"]) == ("Pod default/too-large", "Warning")
    assert [each["name"] for each in report["nodes"]] == ["a100-1", "l40s-1"]
    assert report["nodes"][1] == {
        "name": "l40s-1",
        "ready": True,
        "unschedulable": False,
        "assumed": False,
        "reason": "",
        "message": "",
        "gpus": [
            {
                "uuid": "l40s-1-gpu-0",
                "index": 0,
                "product": "NVIDIA-L40S",
                "capacityGB": 48,
                "usedGB": 0,
                "slices": {},
                "reason": "",
            }
        ],
    }


def test_yaml_says_the_same_as_json(run: Run) -> None:
    as_json = run("plan", "-f", EXAMPLES, "-o", "json").json
    as_yaml = yaml.safe_load(run("plan", "-f", EXAMPLES, "-o", "yaml").out)
    for report in (as_json, as_yaml):
        del report["seconds"]
    assert as_yaml == as_json


def test_names_are_of_the_pods_that_have_a_place(run: Run, given: Given) -> None:
    run("plan", "-f", given(node(), pod("a", 10), pod("b", 90), pod("c", 5)), "-o", "name")
    assert sorted(run.out.splitlines()) == ["default/a", "default/c"]
    assert run.status == 1


def test_gpus_that_stay_as_they_are_are_drawn_only_wide(run: Run, given: Given) -> None:
    files = given(node("n1", count="2"), node("n2"), pod("p", 80))
    run("plan", "-f", files)
    assert "GPU 1" not in run.out
    assert "  n2" not in run.out
    assert "1 of 3 GPUs touched, on 1 of 2 nodes" in run.out
    run("plan", "-f", files, "-o", "wide")
    assert "    GPU 1  85gb  ······························    n1-gpu-1\n" in run.out
    assert "  n2\n" in run.out


def test_withdrawn_slices_are_a_change(run: Run, given: Given) -> None:
    free = [{"id": f"GPU-0::40::{n}", "state": "Free"} for n in range(2)]
    run("plan", "-f", given(node(), layout("n1", gpu(0, *free)), pod("p", 80)))
    assert "1 of 1 GPUs touched" in run.out
    assert "2 free slices withdrawn" in run.out


def test_nodes_and_gpus_that_look_alike_are_drawn_as_one(run: Run, given: Given) -> None:
    nodes = [node(f"n{i}", count="4") for i in (10, 2, 1, 0)]
    web = workload("Deployment", "web", 80, replicas=16)
    run("plan", "-f", given(*nodes, web))
    assert "  n0, n1, n2 and 1 more (4 nodes alike)\n    GPU 0-3  85gb  ▌▓" in run.out
    assert "  team/web ×16: 80gb on n0 GPU 0-3, n1 GPU 0-3, n2 GPU 0-3, n10 GPU 0-3\n" in run.out
    run("plan", "-f", given(*nodes, web), "-o", "wide")
    assert [line.strip() for line in run.out.splitlines() if re.match("  n[0-9]+$", line)] == [
        "n0",
        "n1",
        "n2",
        "n10",
    ]
    assert "  team/web-15: 80gb on n" in run.out


def test_replicas_that_are_refused_or_have_no_place_are_one_line(run: Run, given: Given) -> None:
    two = workload("Deployment", "two", 10, replicas=12)
    two["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] = {
        "nvidia.com/gpu-10gb": 2
    }
    large = workload("StatefulSet", "large", 90, replicas=7)
    bare = [pod(f"b{i}", 95) for i in range(6)]
    run("plan", "-f", given(node(), two, large, *bare))
    assert run.out.count("MultipleSlices") == 1
    assert "  team/two ×12: MultipleSlices" in run.out
    assert "  team/large ×7: 90gb: 0 of 1 nodes" in run.out
    assert "  default/b0, default/b1, default/b2 and 3 more: 95gb: 0 of 1 nodes" in run.out


def test_replicas_of_the_cluster_go_by_their_deployment(run: Run, dump: Given) -> None:
    owner = {"kind": "ReplicaSet", "name": "web-5d", "controller": True}
    pods = [pod(f"web-5d-{i}", 90, owner=owner) for i in "abc"]
    for each in pods:
        each["metadata"]["labels"] = {"pod-template-hash": "5d"}
    run("plan", "-f", dump(node(), *pods))
    assert "  default/web ×3: 90gb: 0 of 1 nodes" in run.out


def test_much_is_cut_short_unless_it_is_asked_for(run: Run, given: Given) -> None:
    nodes = [node(f"n{i}", memory=str(20000 + 1000 * i)) for i in range(60)]
    pods = [pod(f"p{i}", 19 + i, nodeSelector={"of": f"n{i}"}) for i in range(60)]
    for made in nodes:
        made["metadata"]["labels"]["of"] = made["metadata"]["name"]
    files = given(*nodes, *pods)
    run("plan", "-f", files)
    assert "  and 40 more nodes whose GPUs change; -o wide shows all\n" in run.out
    assert "  and 20 more lines of pods; -o wide shows all\n" in run.out
    run("plan", "-f", files, "-o", "wide")
    assert "more" not in run.out


@pytest.mark.parametrize("output", ["table", "wide"])
def test_lines_for_a_pipe_are_neither_wrapped_nor_padded(
    run: Run, given: Given, output: str
) -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(name) == 253
    run("plan", "-f", given(node(name), pod(name, 10), pod("large", 90)), "-o", output)
    assert f"  {name}: 10gb on {name} GPU 0\n".replace("  a", "  default/a", 1) in run.out
    assert all(line == line.rstrip() for line in run.out.splitlines())


def test_escapes_of_a_terminal_are_inert(run: Run, given: Given, tmp_path: Path) -> None:
    evil = "n\x1b[2J\x1b]0;title\x07"
    nodes = node(evil)
    nodes["metadata"]["labels"]["nvidia.com/gpu.product"] = "\x1b[31mA100"
    files = tmp_path / "evil.json"
    refused = pod(f"r{evil}", 10, hostUsers=False)
    waiting = pod(f"w{evil}", 90, nodeSelector={"a": "\x1b[1m"})
    objects = [nodes, pod(f"p{evil}", 10), refused, waiting, asking(f"q{evil}", {"gpu-1gb": 1})]
    files.write_text(json.dumps({"kind": "List", "items": [*objects, {"kind": evil}]}))
    for output in ("table", "wide", "name", "json", "yaml"):
        run("plan", "-f", files, "-o", output)
        assert run.status == 1, run.err
        assert "\x1b" not in run.out + run.err
        assert "\x07" not in run.out + run.err


def printed(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "cli.main", "plan", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, timeout=DEADLINE, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "dumb"},
    ],
)
def test_bars_are_ascii_where_nothing_better_is_sure(environment: dict[str, str]) -> None:
    done = printed("-f", EXAMPLES, **environment)
    assert done.returncode == 1, done.stderr
    text = done.stdout.decode("ascii")
    assert "    GPU 0  85gb  |+|+++|+++|+++|+++++++++++++..  6gb 12gbx3 40gb\n" in text
    assert "  search/embedder x6: 12gb" in text


def test_bars_are_blocks_where_output_is_utf_8() -> None:
    done = printed("-f", EXAMPLES, PYTHONIOENCODING="utf-8", LC_ALL="C.UTF-8", TERM="xterm")
    assert "▌▓".encode() in done.stdout
    assert b"\x1b" not in done.stdout  # no terminal, no colours


def test_time_of_the_table_is_close_to_that_of_json(run: Run, tmp_path: Path) -> None:
    """Processor seconds of this process, since other programs use the machine, too."""
    items = [node(f"n{i}", count="8") for i in range(100)]
    items += [pod(f"p{i}", (5, 10, 20)[i % 3], priority=i % 7) for i in range(2000)]
    file = tmp_path / "many.json"
    file.write_text(json.dumps({"kind": "List", "items": items}))
    taken: dict[str, float] = {}
    for output in ("json", "table", "json", "table"):
        started = time.process_time()
        run("plan", "-f", file, "-o", output)
        taken[output] = min(taken.get(output, 1e9), time.process_time() - started)
    assert taken["table"] <= 1.3 * taken["json"]


def test_status_is_0_when_every_pod_is_placed(run: Run, given: Any) -> None:
    run("plan", "-f", given(node(), pod("p", 10)))
    assert run.status == 0


def test_help_needs_no_kubernetes_client() -> None:
    code = (
        "import sys; import cli.main, cli.plan.offline, cli.plan.report, cli.plan.table;"
        "sys.exit(any(name.split('.')[0] in ('kubernetes_asyncio', 'aiohttp', 'grpc')"
        " for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=DEADLINE)
    assert done.returncode == 0


def test_flags_mean_what_they_mean_elsewhere(run: Run, given: Any) -> None:
    files = given(node(), pod("p", 85))
    assert run("plan", "-f", files).status == 0
    assert run("plan", "-f", files, "--memory-unit=GiB").status == 1  # 80 of them
    many = given(node(), *(pod(f"p{i}", 1) for i in range(3)), name="many.yaml")
    assert run("plan", "-f", many, "--max-slices-per-gpu=2").status == 1
    as_root = given(node(), pod("p", 10, securityContext={"runAsUser": 1000}), name="uid.yaml")
    assert run("plan", "-f", as_root).status == 0
    assert run("plan", "-f", as_root, "--mps-user=0", "-o", "json").status == 1
    assert run.json["rejected"][0]["reason"] == "RunAsUserMismatch"
