"""Every case of the table gets the answer of docs/design/admission.md, in the words on file."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.webhook.cases import PODS, TEMPLATES, Case
from tests.webhook.judging import advise
from webhook.offline import admit
from webhook.settings import Compute, DevShm, Enforcement, PrivilegeEscalation, Settings
from webhook.verdicts import LONGEST_WARNING, Reason, Verdict

GOLDEN = Path(__file__).parent / "golden" / "answers.txt"


def settings_of(case: Case) -> Settings:
    """The settings of a case, whose words are those of the flags."""
    kinds = {
        "dev_shm": DevShm,
        "compute": Compute,
        "enforcement": Enforcement,
        "privilege_escalation": PrivilegeEscalation,
    }
    values: dict[str, Any] = {
        key: kinds[key](value) if key in kinds else value for key, value in case.settings.items()
    }
    return Settings(**values)


def answer(case: Case) -> Verdict:
    kind = case.manifest["kind"]
    if kind == "Pod":
        return admit(case.manifest, settings_of(case)).verdict
    return advise(case.manifest, kind, settings_of(case))


@pytest.mark.parametrize("case", [*PODS, *TEMPLATES], ids=str)
def test_each_case_is_answered_as_the_contract_says(case: Case) -> None:
    verdict = answer(case)
    warns = tuple(warning.partition(":")[0] for warning in verdict.warnings)
    assert (verdict.allowed, warns) == (case.reason is None, case.warns), verdict
    if case.reason is not None:
        assert verdict.reason is case.reason
        lines = verdict.message.splitlines()
        assert [line.partition(": container ")[0] for line in lines] == list(case.reasons)


def test_every_reason_that_needs_no_facts_is_in_the_table() -> None:
    refused = {case.reason for case in PODS}
    # Those two need another webhook and a known GPU, and have their own tests.
    assert refused - {None} == set(Reason) - {Reason.HOST_IPC_REQUIRED, Reason.SLICE_TOO_LARGE}


def test_every_warning_of_the_table_is_in_the_user_guide() -> None:
    topics = {topic for case in (*PODS, *TEMPLATES) for topic in case.warns}
    guide = (GOLDEN.parents[3] / "docs" / "user-guide.md").read_text()
    assert {topic for topic in topics if f"| `{topic}` |" not in guide} == set()


def test_case_names_are_unique() -> None:
    names = [case.name for case in (*PODS, *TEMPLATES)]
    assert len(names) == len(set(names))


def test_messages_are_the_ones_on_file() -> None:
    """MPSLICE_GOLDEN=write writes them anew; read the difference before you commit it."""
    lines = []
    for case in (*PODS, *TEMPLATES):
        verdict = answer(case)
        said = [verdict.message] if verdict.message else []
        lines += [f"{case.name}: {text}" for text in (*said, *verdict.warnings)]
    text = "\n".join(lines) + "\n"
    if os.environ.get("MPSLICE_GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_warnings_of_the_table_fit_into_what_the_api_server_passes_on() -> None:
    warnings = [text for case in (*PODS, *TEMPLATES) for text in answer(case).warnings]
    assert warnings
    assert all(len(text) <= LONGEST_WARNING for text in warnings)
