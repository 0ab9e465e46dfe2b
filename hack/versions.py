"""Runs on the oldest and the newest version of Kubernetes what may differ between versions.

`python -m hack.versions [ARGUMENT …]`: for each it obtains the programs, runs the tests with the
marker `versions`, and prints a row of the table that docs/compatibility.md keeps. The arguments go
to pytest. MPSLICE_KUBERNETES, where it is set, names the one version that is run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from hack.cluster import versions
from hack.cluster.versions import KUBERNETES_VARIABLE, KUBERNETES_VERSIONS

_REQUIRED: Final = "cluster,node,mpslice"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tests came to on one version."""

    version: str
    passed: int
    failed: int
    skipped: int
    seconds: float

    @property
    def good(self) -> bool:
        return self.passed > 0 and self.failed == 0

    def __str__(self) -> str:
        day = time.strftime("%Y-%m-%d")
        minutes = f"{self.seconds / 60:.0f} min"
        cells = (self.version, day, self.passed, self.failed, self.skipped, minutes)
        return f"| {' | '.join(map(str, cells))} |"


def read(version: str, report: Path) -> Outcome:
    """The outcome that pytest's XML report says; nothing passed where there is no report."""
    if not report.exists():
        return Outcome(version, 0, 1, 0, 0.0)
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    passed = failed = skipped = 0
    seconds = 0.0
    for suite in suites:
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        left = int(suite.get("skipped", 0))
        failed, skipped = failed + bad, skipped + left
        passed += int(suite.get("tests", 0)) - bad - left
        seconds += float(suite.get("time", 0))
    return Outcome(version, passed, failed, skipped, seconds)


def chosen(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The oldest and the newest, or the version that the environment names."""
    if environment.get(KUBERNETES_VARIABLE):
        return (versions.chosen_kubernetes(environment),)
    return KUBERNETES_VERSIONS


def main(arguments: Sequence[str]) -> int:
    """1 where a test fails on a version, or none ran."""
    outcomes = [_run(version, arguments) for version in chosen(os.environ)]
    print("| Kubernetes | date | passed | failed | skipped | took |")
    print("| --- | --- | --- | --- | --- | --- |")
    for outcome in outcomes:
        print(outcome)
    return 0 if all(outcome.good for outcome in outcomes) else 1


def _run(version: str, arguments: Sequence[str]) -> Outcome:
    environment = {"MPSLICE_REQUIRE": _REQUIRED, **os.environ, KUBERNETES_VARIABLE: version}
    subprocess.run([sys.executable, "-m", "hack.cluster", "parts"], env=environment)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        pytest = (sys.executable, "-m", "pytest", "-m", "versions", f"--junitxml={report}")
        subprocess.run([*pytest, *arguments], env=environment)
        return read(version, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
