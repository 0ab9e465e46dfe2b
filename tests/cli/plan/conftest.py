import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Given
from tests.cli.plan.given import Json, Run

Plan = Callable[..., Run]


@pytest.fixture(autouse=True)
def no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of a slow plan depends on the machine."""
    monkeypatch.setattr("cli.progress.PATIENCE", 3600.0)


@pytest.fixture
def plan(run: Run, given: Given) -> Plan:
    """Plans objects with some flags, and answers in JSON."""

    def call(*objects: Json, flags: tuple[Any, ...] = ()) -> Run:
        return run("plan", "-o", "json", "-f", given(*objects), *flags)

    return call


@pytest.fixture
def dump(tmp_path: Path) -> Given:
    """Writes objects as `kubectl get -o json` does: as a List, each with a uid."""

    def write(*objects: Json, name: str = "cluster.json") -> Path:
        stored = [
            each | {"metadata": {"uid": f"u{number}", **each["metadata"]}}
            for number, each in enumerate(objects)
        ]
        path = tmp_path / name
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": stored}))
        return path

    return write
