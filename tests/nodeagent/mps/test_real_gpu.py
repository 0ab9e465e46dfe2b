"""What mpslice says of MPS, on a real GPU that nobody uses; its settings are left as they were."""

import json
import subprocess
import sys

import pytest

from nodeagent.verify.__main__ import UNFIT, table
from tests.cluster.plugin import do_without

pytestmark = [pytest.mark.gpu]


def test_every_claim_holds() -> None:
    command = [sys.executable, "-m", "nodeagent.verify", "--output=json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    if done.returncode == UNFIT:
        do_without("gpu", done.stderr.strip())
    report = json.loads(done.stdout)
    print(table(report))  # noqa: T201  what the page on MPS is to record
    assert [entry for entry in report["findings"] if entry["holds"] is False] == []
