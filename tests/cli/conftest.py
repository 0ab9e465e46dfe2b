from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli.plan.given import Json, Run

Given = Callable[..., Path]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """Writes objects as one YAML file of many documents, and names it."""

    def write(*objects: Json, name: str = "input.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump_all(objects, sort_keys=False))
        return path

    return write
