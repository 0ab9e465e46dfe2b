"""The table of cases through a real API server, and what kubectl prints for each refusal."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.versions import KUBERNETES, has_pod_level_resources, has_resource_claims
from tests.webhook.cases import PODS, TEMPLATES, Case
from tests.webhook.cluster import Installation
from tests.webhook.test_cases import answer

GOLDEN = Path(__file__).parent / "golden" / "kubectl.txt"
_DENIED = re.compile(r"^Error from server \((?:Forbidden)\): error when creating \"STDIN\": ")
_BY_POLICY = re.compile(
    r"^pods \"[^\"]+\" is forbidden: ValidatingAdmissionPolicy 'mpslice-pods' "
    r"with binding 'mpslice-pods' denied request: "
)
_BY_WEBHOOK = re.compile(r"^admission webhook \"[a-z]+\.pods\.mpslice\.io\" denied the request: ")

PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
BY_POLICY = {
    "MultipleSlices",
    "QuotaMismatch",
    "RunAsUserMismatch",
    "PrivilegeEscalation",
    "SliceWithWholeGPU",
    "ReservedEnvironment",
    "ReservedMount",
}
"""What a pod can be refused for by the policy while the webhook completes it."""

RUNTIMES = [
    {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": name},
        "handler": "runc",
    }
    for name in ("gvisor", "kata-qemu", "nvidia")
]
Settings = tuple[tuple[str, Any], ...]
DROPPED = {
    case
    for case, is_kept in (
        ("pod-level slice", has_pod_level_resources),
        ("slice and a claim", has_resource_claims),
    )
    if not is_kept(KUBERNETES.version)
}
"""Cases about a field that the API server of this version drops, so that it says nothing."""

pytestmark = [
    pytest.mark.versions,
]


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
    names = {
        "mps_user": "mps.userID",
        "host_ipc": "mps.hostIPC",
        "compute": "mps.compute",
        "mps_root": "nodeAgent.mpsRoot",
        "enforcement": "admission.enforcement",
        "privilege_escalation": "admission.privilegeEscalation",
        "quota": "quota.enabled",
    }
    return [f"{names[key]}={_word(value)}" for key, value in settings if key in names]


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
    installation.apply(RUNTIMES)
    for settings, cases in groups().items():
        installation.install(*values(settings))
        with installation.serving(*flags(settings)):
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
    assert len(answers) >= 180


@pytest.mark.parametrize("case", [*PODS, *TEMPLATES], ids=str)
def test_api_server_answers_each_case_as_the_contract_says(
    answers: dict[str, list[str]], case: Case
) -> None:
    lines = answers[case.name]
    if case.name in DROPPED:
        assert lines == []
        return
    if case.api:
        assert case.api in "\n".join(lines)
        return
    if case.reason is not None:
        assert [bare(line).partition(":")[0] for line in lines] == list(case.reasons)
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
    lines = GOLDEN.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.partition(":")[0] not in DROPPED]
    assert text == "".join(kept)


def test_policy_and_webhook_say_the_same(answers: dict[str, list[str]]) -> None:
    """A single violation is answered by the policy before /validate is asked."""
    by_policy = {
        name: bare(line)
        for name, lines in answers.items()
        for line in lines
        if _BY_POLICY.match(line)
    }
    reasons = {message.partition(":")[0] for message in by_policy.values()}
    assert reasons == BY_POLICY
    assert len(by_policy) >= 40
    cases = {case.name: case for case in PODS}
    told = {name: answer(cases[name]).message for name in by_policy}
    # The API server stores 2000m as 2 before the policy sees it.
    counts = re.compile(r"(?<=asks for nvidia\.com/gpu-10gb: )\w+")
    assert {name: counts.sub("N", text) for name, text in told.items()} == {
        name: counts.sub("N", text) for name, text in by_policy.items()
    }
