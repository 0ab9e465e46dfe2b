"""The table of cases through a real API server, and what kubectl prints for each refusal."""

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.waiting import wait_until
from tests.webhook.cases import PODS, SLICE, TEMPLATES, Case, Manifest, container, pod, user
from tests.webhook.cluster import Installation, create

GOLDEN = Path(__file__).parent / "golden" / "kubectl.txt"
_DENIED = re.compile(r"^Error from server \((?:Forbidden)\): error when creating \"STDIN\": ")
_BY_POLICY = re.compile(
    r"^pods \"[^\"]+\" is forbidden: ValidatingAdmissionPolicy 'mpslice-pods' "
    r"with binding 'mpslice-pods' denied request: "
)
_BY_WEBHOOK = re.compile(r"^admission webhook \"[a-z]+\.pods\.mpslice\.io\" denied the request: ")

Settings = tuple[tuple[str, Any], ...]

pytestmark = pytest.mark.timeout(600)  # the first test pays for all answers


def groups() -> dict[Settings, list[Case]]:
    """The cases by the settings that they need."""
    found: dict[Settings, list[Case]] = {}
    for case in (*PODS, *TEMPLATES):
        found.setdefault(tuple(sorted(case.settings.items())), []).append(case)
    return found


def flags(settings: Settings) -> list[str]:
    """The flags of mpslice-webhook for settings of the table."""
    return [f"--{key.replace('_', '-')}={_word(value)}" for key, value in settings]


def _word(value: object) -> str:
    if isinstance(value, frozenset):
        return ",".join(f"{size}gb" for size in sorted(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def values(settings: Settings) -> list[str]:
    """The Helm values for the same, as far as the chart's own objects depend on them."""
    names = {"mps_user": "mps.userID", "enforcement": "admission.enforcement"}
    return [f"{names[key]}={value}" for key, value in settings if key in names]


def probe_of(settings: Settings) -> Manifest:
    """A pod that passes once the policy has the values of these settings."""
    given = dict(settings)
    count = 2 if given.get("enforcement") == "warn" else 1
    served = user(given.get("mps_user", 1000))
    return pod(container({SLICE: count}), hostIPC=True, securityContext=served)


def passes(installation: Installation, manifest: Manifest) -> bool:
    return "created" in create(installation, manifest)[0]


def said(stderr: str) -> list[str]:
    """What kubectl says, line by line, without what it says before each."""
    return [_DENIED.sub("", line) for line in stderr.splitlines()]


def bare(line: str) -> str:
    """The message alone, whoever sent it."""
    return _BY_WEBHOOK.sub("", _BY_POLICY.sub("", line))


@pytest.fixture(scope="module")
def answers(installation: Installation) -> dict[str, list[str]]:
    """What kubectl says to each case, dry-run by the server; [] for what passes in silence."""
    found: dict[str, list[str]] = {}
    for settings, cases in groups().items():
        installation.install(*values(settings))
        with installation.serving(*flags(settings)):
            wait_until(
                partial(passes, installation, probe_of(settings)),
                "the policy is in force",
                seconds=20,
            )
            for case in cases:
                stdout, stderr = installation.kubectl(
                    "create", "--dry-run=server", "--filename=-", objects=[case.manifest]
                )
                refused = "Error" in stderr or " is invalid: " in stderr
                assert bool(stdout) != refused, (case.name, stdout, stderr)
                found[case.name] = said(stderr)
    installation.install()
    return found


def test_table_is_large_enough(answers: dict[str, list[str]]) -> None:
    assert len(answers) >= 60


@pytest.mark.parametrize("case", [*PODS, *TEMPLATES], ids=str)
def test_api_server_answers_each_case_as_the_contract_says(
    answers: dict[str, list[str]], case: Case
) -> None:
    lines = answers[case.name]
    if case.api:
        assert case.api in "\n".join(lines)
        return
    if case.reason is not None:
        assert [bare(line).partition(":")[0] for line in lines] == [case.reason]
        return
    prefix = "Warning: "
    assert all(line.startswith(prefix) for line in lines), lines
    topics = [line.removeprefix(prefix).partition(":")[0] for line in lines]
    assert topics == list(case.warns)


def test_kubectl_prints_what_is_on_file(answers: dict[str, list[str]]) -> None:
    """MPSLICE_GOLDEN=write writes it anew; read the difference before you commit it."""
    text = "".join(f"{name}: {line}\n" for name, lines in answers.items() for line in lines)
    if os.environ.get("MPSLICE_GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_policy_and_webhook_say_the_same(
    installation: Installation, answers: dict[str, list[str]]
) -> None:
    """The ValidatingAdmissionPolicy answers first; without it, the webhook in the same words."""
    by_policy = {
        name: bare(line)
        for name, lines in answers.items()
        for line in lines
        if _BY_POLICY.match(line)
    }
    reasons = {message.partition(":")[0] for message in by_policy.values()}
    assert reasons == {"MultipleSlices", "RunAsUserMismatch"}
    cases = [case for case in groups()[()] if case.name in by_policy]
    installation.install("admission.policy.enabled=false")
    with installation.serving():
        two = pod(container({SLICE: 2}))
        wait_until(
            lambda: "ValidatingAdmissionPolicy" not in create(installation, two)[1],
            "the policy is gone",
            seconds=20,
        )
        _, stderr = installation.kubectl(
            "create",
            "--dry-run=server",
            "--filename=-",
            objects=[case.manifest for case in cases],
        )
    installation.install()
    assert [bare(line) for line in said(stderr)] == [by_policy[case.name] for case in cases]
    assert all(_BY_WEBHOOK.match(line) for line in said(stderr))
