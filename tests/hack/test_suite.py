"""The suite's two halves: both are run, and none fails unseen."""

import os
import sys
from pathlib import Path

import pytest

from hack import suite


@pytest.mark.parametrize("cores", [2, 4])
@pytest.mark.parametrize(
    ("on_the_node", "others", "whole"),
    [(0, 0, 0), (1, 0, 1), (0, 1, 1), (5, 0, 0), (0, 5, 0), (5, 1, 1), (5, 5, 5), (2, 1, 2)],
)
def test_whole_fails_if_a_half_does(
    on_the_node: int,
    others: int,
    whole: int,
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "$*"\n'
        f'case "$*" in *"not node"*) exit {others};; *) exit {on_the_node};; esac\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    assert suite.main(["-k", "some"]) == whole
    printed = capfd.readouterr().out.splitlines()
    halves = [line for line in printed if line.startswith("-m pytest -m ")]
    assert len(halves) == 2
    assert all(line.endswith("-k some") for line in halves)
