"""With the chart's values, admission and planner decide as they are installed."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from cli.plan.options import SETTINGS, Options, with_values
from tests.chart import CHART
from tests.cli.conftest import Given
from tests.cli.plan.given import Json, Run, node, pod
from webhook.settings import Settings


def written(path: Path, **values: object) -> Path:
    file = path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_every_setting_of_the_webhook_is_a_value() -> None:
    assert {each.field for each in SETTINGS} == {each.name for each in fields(Settings)}


def test_defaults_are_the_charts() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for each in SETTINGS:
        place = values
        for step in each.path.split("."):
            place = place[step]  # a KeyError: the chart has no such value
    assert with_values(Options(), values, "values.yaml") == Options()


def test_template_hands_each_value_to_the_flag_of_the_setting() -> None:
    template = (CHART / "templates" / "webhook-deployment.yaml").read_text()
    flags = {each.field: f"--{each.field.replace('_', '-')}=" for each in SETTINGS}
    for each in SETTINGS:
        above, found, below = template.partition(flags[each.field])
        assert found, f"the webhook is not told {each.path}"
        # In the flag's own line, or in the `with` or `if` above it.
        assert f".Values.{each.path}" in above[-90:] + below.partition("\n")[0]


def test_too_large_a_slice_is_warned_of_or_refused(run: Run, given: Given, tmp_path: Path) -> None:
    files = given(node(), pod("p", 90))
    run("plan", "-o", "json", "-f", files)
    assert run.json["warnings"][0]["message"].startswith("SliceTooLarge: ")
    assert run.json["rejected"] == []
    run(
        "plan",
        "-o",
        "json",
        "-f",
        files,
        "--values",
        written(tmp_path, admission={"tooLarge": "deny"}),
    )
    assert [each["reason"] for each in run.json["rejected"]] == ["SliceTooLarge"]


@pytest.mark.parametrize(
    ("values", "spec", "reason"),
    [
        ({"admission": {"allowedSizes": ["20gb"]}}, {}, "SizeNotAllowed"),
        ({"mps": {"userID": 0}}, {"securityContext": {"runAsUser": 1000}}, "RunAsUserMismatch"),
        (
            {"mps": {"compute": "proportional"}},
            {"env": [{"name": "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "value": "9"}]},
            "ReservedEnvironment",
        ),
        (
            {"admission": {"privilegeEscalation": "deny"}},
            {"securityContext": {"allowPrivilegeEscalation": True}},
            "PrivilegeEscalation",
        ),
    ],
)
def test_value_decides_a_refusal(
    run: Run, given: Given, tmp_path: Path, values: Json, spec: Json, reason: str
) -> None:
    judged = pod("p", 10)
    judged["spec"]["containers"][0] |= spec
    files = given(node(), judged)
    assert run("plan", "-o", "json", "-f", files).json["rejected"] == []
    run("plan", "-o", "json", "-f", files, "--values", written(tmp_path, **values))
    assert [each["reason"] for each in run.json["rejected"]] == [reason]


def test_enforcement_warn_lets_a_bad_pod_through(run: Run, given: Given, tmp_path: Path) -> None:
    shm = pod("p", 10, volumes=[{"name": "shm", "emptyDir": {}}])
    shm["spec"]["containers"][0]["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
    files = given(node(), shm)
    assert run("plan", "-f", files).status == 1
    for values in (
        {"enforcement": "warn"},
        {"devShm": "strip"},
        {"excludedNamespaces": ["default"]},
    ):
        assert run("plan", "-f", files, "--values", written(tmp_path, admission=values)).status == 0


def test_planning_follows_the_values_too(run: Run, given: Given, tmp_path: Path) -> None:
    files = given(node(gpus="ours"), *(pod(f"p{i}", 1) for i in range(3)))
    label = {"key": "gpus", "value": "ours"}
    values = written(tmp_path, mps={"maxSlicesPerGPU": 2, "memoryUnit": "GiB"}, nodeLabel=label)
    run("plan", "-o", "json", "-f", files, "--values", values)
    assert len(run.json["placed"]) == 2
    assert run.json["nodes"][0]["gpus"][0]["capacityGB"] == 80


def test_flag_goes_before_the_values_and_a_later_file_before_an_earlier_one(
    run: Run, given: Given, tmp_path: Path
) -> None:
    files = given(node(), pod("p", 10, securityContext={"runAsUser": 7}))
    eight, seven = tmp_path / "8.yaml", tmp_path / "7.yaml"
    eight.write_text("mps: {userID: 8}")
    seven.write_text("mps: {userID: 7}")
    assert run("plan", "-f", files, "--values", eight).status == 1
    assert run("plan", "-f", files, "--values", eight, "--values", seven).status == 0
    assert run("plan", "-f", files, "--values", eight, "--mps-user", "7").status == 0


def test_values_that_cannot_be_followed_are_warned_of(
    run: Run, given: Given, tmp_path: Path
) -> None:
    values = written(
        tmp_path,
        admission={"matchConditions": [{"name": "a", "expression": "true"}]},
        webhook={"extraArgs": ["--enforcement=warn"]},
    )
    run("plan", "-f", given(node(), pod("p", 10)), "--values", values, "-o", "json")
    conditions, arguments = (each["message"] for each in run.json["warnings"])
    assert "admission.matchConditions is not followed offline: the API server" in conditions
    assert arguments.endswith("webhook.extraArgs is not followed offline: write the chart's values")


def test_values_of_a_chart_that_has_mpslices_as_a_part(
    run: Run, given: Given, tmp_path: Path
) -> None:
    values = written(tmp_path, mpslice={"admission": {"allowedSizes": ["20gb"]}}, other={})
    assert run("plan", "-f", given(node(), pod("p", 10)), "--values", values).status == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("admission: {tooLarge: maybe}", "admission.tooLarge: 'maybe' is not one of deny, warn"),
        ("admission: {allowedSizes: [10]}", "admission.allowedSizes: [10] is not a list of texts"),
        ("admission: {allowedSizes: [10g]}", "is not a list of sizes such as [10gb, 20gb]"),
        ("mps: {userID: root}", "mps.userID: 'root' is not a numeric user id"),
        ("mps: {maxSlicesPerGPU: 49}", "mps.maxSlicesPerGPU: 49 is more than the 48 clients"),
        ("mps: {hostIPC: []}", "mps.hostIPC: [] is not a text or a number"),
        ("replicas: 2", "holds no value of mpslice's chart"),
        ("- a\n- b", "does not hold one map"),
    ],
)
def test_value_that_cannot_be_used_is_named(
    run: Run, given: Given, tmp_path: Path, text: str, complaint: str
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(text)
    run("plan", "-f", given(node(), pod("p", 10)), "--values", values)
    assert run.status == 2
    assert run.err.startswith(f"kubectl mpslice: {values}: ")
    assert complaint in run.err
    assert run.err.count("\n") == 1
