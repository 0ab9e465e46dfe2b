"""The chart as Helm renders it, for tests that need some of its objects."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.waiting import DEADLINE

CHART = Path(__file__).parent.parent / "helm" / "mpslice"


def render(helm: Path, *arguments: str, namespace: str = "mpslice-system") -> list[dict[str, Any]]:
    """The documents of `helm template` but hooks, with the release's usual name."""
    command = [str(helm), "template", "mpslice", str(CHART), f"--namespace={namespace}"]
    command.append("--no-hooks")
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    return [document for document in yaml.safe_load_all(done.stdout) if document]
