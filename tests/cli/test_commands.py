"""The commands' own flags and exit statuses, as a person types them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.main import parser
from tests.waiting import DEADLINE


def run(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program in a home without a kubeconfig, its output in pipes."""
    kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=Path(__file__).parents[2],
        env={**kept, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


@pytest.mark.parametrize("command", ["status", "why", "top"])
def test_kubectls_flags_are_taken(command: str) -> None:
    target = ["pod-0"] if command == "why" else []
    given = ["-n", "team-a", "--context=c", "--as=jane", "--as-group=a", "--as-group=b"]
    options = parser().parse([command, *target, *given, "--kubeconfig=f"], {})
    said: dict[str, Any] = vars(options)
    assert (said["namespace"], said["context"], said["as"]) == ("team-a", "c", "jane")
    assert (said["as_group"], said["kubeconfig"]) == (["a", "b"], "f")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["why", "pytorchjob/x"], "'pytorchjob/x' has an unknown kind"),
        (["why", "../x"], "has an unknown kind"),
        (["why", "UPPER"], "'UPPER' is not a valid name"),
        (["status", "--namespace=a/b"], "--namespace: 'a/b' is not a valid name"),
        (["status", "--output=yaml"], "is not one of table, wide, json"),
        (["top", "--prometheus=localhost"], "--prometheus: 'localhost' is not a URL"),
        (["top", "--window=1"], "--window: '1' is not a duration"),
        (["status", "--as-group=a"], "--as-group needs --as"),
        (["status"], "does not exist"),
    ],
)
def test_mistake_is_answered_with_one_line_and_status_2(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = run(*arguments, home=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


@pytest.mark.parametrize("output", ["table", "json"])
def test_output_that_cannot_be_written_is_one_line(output: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "plan", "-f", "examples", "-o", output]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert (done.returncode, done.stderr) == (2, "kubectl mpslice: No space left on device\n")


def test_unknown_context_names_those_that_there_are(tmp_path: Path) -> None:
    config = tmp_path / "config"
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "prod", "context": {"cluster": "c", "user": "u"}}
    users = [{"name": "u", "user": {"token": "t"}}]
    config.write_text(json.dumps({"clusters": [cluster], "contexts": [context], "users": users}))
    done = run("status", f"--kubeconfig={config}", "--context=test", home=tmp_path)
    assert done.returncode == 2
    assert "it has no context 'test'; its contexts are: prod" in done.stderr


@pytest.mark.parametrize("command", ["status", "why", "top"])
def test_help_has_examples_and_every_default(command: str, tmp_path: Path) -> None:
    done = run(command, "--help", home=tmp_path)
    assert done.returncode == 0
    assert f"Examples:\n  kubectl mpslice {command} " in done.stdout
    assert "default" in done.stdout
