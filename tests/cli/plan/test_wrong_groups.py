"""Groups and constraints that are wrong: what counts for nothing, or has another type, is named."""

from typing import Any

import pytest

from tests.cli.conftest import Given
from tests.cli.plan.conftest import Plan
from tests.cli.plan.given import Json, Run, node, pod, workload

GROUP = "scheduling.x-k8s.io/pod-group"
MINIMUM = "mpslice.io/min-member"
NOTHING = f"annotation {MINIMUM} is {{}} and is ignored; write a whole number above 0"


def member(minimum: str, group: str = "g", name: str = "p") -> Json:
    made = pod(name, 10)
    made["metadata"] |= {"labels": {GROUP: group}, "annotations": {MINIMUM: minimum}}
    return made


@pytest.mark.parametrize(
    "text",
    ["three", "-1", "0", "1.5", "", " 2", "2 ", "\u0662", "+2", "0x2", "two of 3", "50%"],
)
def test_minimum_that_is_no_number_is_warned_of(plan: Plan, text: str) -> None:
    made = plan(node(), member(text))
    assert made.warnings == {"Pod default/p": NOTHING.format(repr(text))}
    assert made.placed == {"default/p": "n1"}


def test_minimum_without_a_group_is_warned_of(plan: Plan) -> None:
    lone = member("2")
    del lone["metadata"]["labels"]
    for each in (lone, member("2", group="")):
        said = f"annotation {MINIMUM} is ignored without the label {GROUP}"
        assert plan(node(), each).warnings == {"Pod default/p": said}


def test_pods_of_a_workload_are_warned_of_once(plan: Plan) -> None:
    web = workload("Deployment", "web", 10, replicas=3)
    web["spec"]["template"]["metadata"] |= {"annotations": {MINIMUM: "all"}}
    assert plan(node(), web).warnings == {"Pods of team/web": NOTHING.format("'all'")}


def test_minimum_that_counts_is_not_warned_of(plan: Plan) -> None:
    made = plan(node(), member("3"), member("3", name="q"))
    assert made.warnings == {}
    said = "10gb: Group (group g has 2 of 3 pods; create 1 more)"
    assert made.unplaced == {"default/p": said, "default/q": said}


TERMS = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
REFUSED: list[tuple[Json, str]] = [
    ({"nodeSelector": {"a": 1}}, "spec.nodeSelector.a is 1; write a text"),
    ({"nodeSelector": ["a"]}, "spec.nodeSelector is ['a']; write a map"),
    ({"tolerations": "all"}, "spec.tolerations is 'all'; write a list"),
    ({"priority": "high"}, "spec.priority is 'high'; write a whole number"),
    ({"schedulingGates": ["a"]}, "spec.schedulingGates[0] is 'a'; write a map"),
    (
        {"affinity": {"nodeAffinity": {TERMS.rpartition(".")[2]: []}}},
        f"spec.{TERMS} is []; write a map",
    ),
    (
        {"topologySpreadConstraints": [{"maxSkew": "1", "topologyKey": "z"}]},
        "spec.topologySpreadConstraints[0].maxSkew is '1'; write a whole number",
    ),
    (
        {"overhead": {"cpu": "many"}},
        "'many' is not a quantity; write a number such as 1, 500m or 4Gi",
    ),
]


@pytest.mark.parametrize(("spec", "said"), REFUSED)
def test_constraint_of_another_type_is_named_with_its_line(
    run: Run, given: Given, spec: dict[str, Any], said: str
) -> None:
    run("plan", "-f", given(node(), pod("p", 10, **spec)))
    assert (run.status, run.out, run.err.count("\n")) == (2, "", 1)
    assert run.err.endswith(f": Pod p: {said}\n")
