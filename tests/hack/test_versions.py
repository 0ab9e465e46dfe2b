"""What `make versions` runs, and how it tells what came of it."""

from pathlib import Path

from hack.cluster.versions import KUBERNETES_VERSIONS
from hack.versions import Outcome, chosen, read

_REPORT = (
    '<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10"'
    ' time="90.0"/></testsuites>'
)


def test_oldest_and_newest_are_run_or_the_one_that_is_named() -> None:
    assert chosen({}) == KUBERNETES_VERSIONS
    assert chosen({"MPSLICE_KUBERNETES": "1.33"}) == ("1.33.13",)


def test_report_is_counted(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(_REPORT)
    outcome = read("1.33.13", report)
    assert outcome == Outcome("1.33.13", passed=4, failed=3, skipped=3, seconds=90.0)
    assert not outcome.good
    assert "| 1.33.13 | " in str(outcome)
    assert "| 4 | 3 | 3 | 2 min |" in str(outcome)


def test_run_without_a_report_or_without_a_test_is_not_good(tmp_path: Path) -> None:
    assert not read("1.33.13", tmp_path / "missing.xml").good
    assert not Outcome("1.33.13", 0, 0, 5, 1.0).good
    assert Outcome("1.33.13", 1, 0, 5, 1.0).good
