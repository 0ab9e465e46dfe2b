"""Labels of hardware and values of the chart that are wrong: which it is, and what it is to be."""

from pathlib import Path

import pytest

from tests.cli.conftest import Given
from tests.cli.plan.conftest import Plan
from tests.cli.plan.given import Json, Run, node, pod

COUNT = "label nvidia.com/gpu.count is {}; write a whole number from 1 to 1024"
MEMORY = "label nvidia.com/gpu.memory is {}; write the MiB of one GPU, such as 81920"
MISSING = "label nvidia.com/gpu.{} is missing: nothing says what its GPUs are; add --gpu '{}'"
LABELS: list[tuple[Json, str]] = [
    *(
        ({"count": text}, COUNT.format(repr(text)))
        for text in ("two", "-1", "0", "4096", "1.5", "", " 2", "2x", "1,000", "\u0662", "9" * 12)
    ),
    *(
        ({"memory": text}, MEMORY.format(repr(text)))
        for text in ("80GB", "81920Mi", "-5", "0", "80", "512", "9" * 12, "", "81920.0", "81,920")
    ),
    ({"count": None}, MISSING.format("count", "SELECTOR=COUNTxMEMORYMiB")),
    ({"memory": None}, MISSING.format("memory", "SELECTOR=1xMEMORYMiB")),
    (
        {"count": None, "memory": None},
        "no label says which GPUs it has; add --gpu 'SELECTOR=COUNTxMEMORYMiB'",
    ),
]


@pytest.mark.parametrize(("labels", "said"), LABELS, ids=lambda each: str(each)[:40])
def test_node_with_a_wrong_label_is_set_aside_and_the_others_are_planned_on(
    plan: Plan, labels: Json, said: str
) -> None:
    made = plan(node("n1", **labels), node("n2"), pod("p", 10))
    assert (made.status, made.placed) == (0, {"default/p": "n2"})
    assert made.warnings["Node n1"] == f"is set aside: {said}"


SIZES = "is not a list of texts"
VALUES = {
    "admission: 5": "admission: 5 stands where a map with enforcement belongs",
    "admission: []": "admission: [] stands where a map with enforcement belongs",
    "mps: [1]": "mps: [1] stands where a map with userID belongs",
    "mps: yes": "mps: True stands where a map with userID belongs",
    "nodeLabel: mps": "nodeLabel: 'mps' stands where a map with key belongs",
    "planner: on": "planner: True stands where a map with gate belongs",
    "mps: {}\nwebhook: 5": "webhook: 5 stands where a map with extraArgs belongs",
    "admission: {allowedSizes: 10gb}": f"admission.allowedSizes: '10gb' {SIZES}",
    "admission: {allowedSizes: [10]}": f"admission.allowedSizes: [10] {SIZES}",
    "admission: {allowedSizes: [xgb]}": (
        "admission.allowedSizes: ['xgb'] is not a list of sizes such as [10gb, 20gb]"
    ),
    "admission: {devShm: keep}": "admission.devShm: 'keep' is not one of deny, strip",
    "admission: {enforcement: off}": "admission.enforcement: False is not one of deny, warn",
    "admission: {tooLarge: maybe}": "admission.tooLarge: 'maybe' is not one of deny, warn",
    "mps: {userID: root}": "mps.userID: 'root' is not a numeric user id; write for example 1000",
    "mps: {userID: -1}": "mps.userID: -1 is not a numeric user id; write for example 1000",
    "mps: {maxSlicesPerGPU: 0}": "mps.maxSlicesPerGPU: 0 is not a whole number above 0",
    "mps: {maxSlicesPerGPU: 64}": (
        "mps.maxSlicesPerGPU: 64 is more than the 48 clients that MPS serves"
    ),
    "mps: {memoryUnit: MiB}": "mps.memoryUnit: 'MiB' is not one of GB, GiB",
    "mps: {hostIPC: 'yes'}": "mps.hostIPC: 'yes' is neither true nor false",
    "mps: {compute: all}": "mps.compute: 'all' is not one of shared, proportional",
    "planner: {gate: perhaps}": "planner.gate: 'perhaps' is neither true nor false",
    "- a": "does not hold one map; name a file such as values.yaml",
    "planner": "does not hold one map; name a file such as values.yaml",
    "adminssion: {devShm: strip}": "holds no value of mpslice's chart; see docs/values.md",
}


@pytest.mark.parametrize("text", VALUES)
def test_wrong_values_are_one_line(run: Run, given: Given, tmp_path: Path, text: str) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(f"{text}\n")
    run("plan", "-f", given(node(), pod("p", 10)), "--values", path)
    assert (run.status, run.out, run.err.count("\n")) == (2, "", 1)
    assert run.err == f"kubectl mpslice: {path}: {VALUES[text]}\n"
