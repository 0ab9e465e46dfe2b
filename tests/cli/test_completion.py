"""Completion: what the last word may become, and the same asked by a real kubectl."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli import completion
from cli.completion import KINDS, SCRIPT, answer, ask_kubectl, question, wanted
from cli.main import parser
from cli.why.ask import _KINDS
from hack.cluster.controlplane import ControlPlane
from mpslice.commandline import Command, describe
from tests.waiting import DEADLINE

CHECKOUT = Path(__file__).parents[2]
FREE_VALUES = {
    "as", "as_group", "assume_label", "gpu", "max_slices_per_gpu", "mps_user", "node_label",
    "prometheus", "size", "window",
}  # fmt: skip
"""Flags whose values nobody can list."""


def program() -> Command:
    return describe(parser())


def candidates(*words: str, names: Sequence[str] = ()) -> tuple[list[str], int]:
    """The words and the directive of an answer where kubectl says these names."""
    *lines, directive = answer(program(), words, lambda _: names, {})
    return [line.partition("\t")[0] for line in lines], int(directive.removeprefix(":"))


def asked(*words: str, **environment: str) -> list[str]:
    return question(wanted(program(), words), environment)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pl"], ["plan"]),
        (["plan", "--out"], ["--output"]),
        (["plan", "--output="], ["table", "wide", "json", "yaml", "name"]),
        (["plan", "--output", "j"], ["json"]),
        (["plan", "-o", "w"], ["wide"]),
        (["plan", "-oj"], ["json"]),
        (["plan", "--assume-empty="], ["true", "false"]),
        (["plan", "-f", "x", "--fil"], ["--filename"]),
        (["plan", "--live", "--li"], []),
        (["status", "-n", "plan", "--wat"], ["--watch"]),
        (["top", "--by=work"], ["workload"]),
        (["why", "no"], ["node/"]),
        (["nonsense", ""], []),
        (["version", ""], []),
        (["plan", "--nonsense=x"], []),
    ],
)
def test_word_is_completed_from_the_parser(words: list[str], expected: list[str]) -> None:
    assert candidates(*words)[0] == expected


def test_every_command_is_offered_with_its_summary() -> None:
    lines = answer(program(), [""], lambda _: (), {})
    assert lines[:-1] == [f"{each.word}\t{each.summary}" for each in program().commands]
    assert all(each.summary for each in program().commands)


def test_files_are_left_to_the_shell_and_nothing_else_is() -> None:
    for words in (["plan", "-f", ""], ["plan", "--values="], ["top", "--kubeconfig", "x"]):
        assert candidates(*words) == ([], 0)
    assert candidates("plan", "--gpu", "")[1] == completion.NO_FILES


def test_a_kind_waits_for_its_name_without_a_space() -> None:
    assert candidates("why", "nod") == (["node/"], completion.NO_SPACE | completion.NO_FILES)
    assert candidates("why", "", names=["pod/a"])[1] == completion.NO_FILES


def test_names_come_from_kubectl() -> None:
    assert candidates("why", "tr", names=["pod/train-0", "pod/other"])[0] == ["train-0"]
    assert candidates("why", "node/", names=["node/n1"])[0] == ["node/n1"]
    assert candidates("why", "job/j", names=["job.batch/j1"])[0] == ["job/j1"]
    arn = "arn:aws:eks:eu:1:cluster/c"
    assert candidates("status", "--context=", names=[arn, "evil\x1b[2J"])[0] == [arn]


def test_kubectl_is_asked_with_the_flags_that_were_given() -> None:
    names = ("--request-timeout=2s", "--output=name")
    given = ["--context=c", "--as", "jane", "--as-group=a", "--as-group=b", "-n", "team"]
    assert asked("why", *given, "") == [
        *("get", "pod", names[0], "--context=c", "--as=jane", "--as-group=a", "--as-group=b"),
        *("--namespace=team", names[1]),
    ]
    assert asked("status", "-n", "") == ["get", "namespaces", *names]
    assert asked("holders", "--node", "") == ["get", "nodes", *names]
    contexts = asked("top", "--kubeconfig=f", "--context", "")
    assert contexts == ["config", "get-contexts", "--kubeconfig=f", names[1]]


def test_variables_that_set_flags_count_for_completion_too() -> None:
    variables = {"MPSLICE_NAMESPACE": "x", "MPSLICE_AS_GROUP": "no flag's"}
    passed = asked("why", "", **variables)[3:-1]
    assert passed == ["--namespace=x"]
    assert asked("why", "-n", "y", "", **variables)[3:-1] == ["--namespace=y"]


def test_every_value_of_a_flag_is_offered_or_known_to_be_free() -> None:
    for command in program().commands:
        for flag in command.flags:
            if flag.metavar and flag.destination not in FREE_VALUES:
                sought = wanted(program(), [command.word, f"{flag.names[-1]}="])
                offered = sought.words or sought.objects or sought.directive == completion.DEFAULT
                assert offered, f"{command.name} {flag.names[-1]}"


def test_every_kind_of_why_is_offered() -> None:
    assert [kind.lower() for kind in _KINDS] == list(KINDS)


def test_kubectl_that_hangs_is_ended_with_all_that_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\nsleep 600 & echo $! > {tmp_path}/plugin; wait\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(completion, "PATIENCE", 3.0)
    started = time.monotonic()
    assert ask_kubectl(["get", "pod"]) == []
    assert time.monotonic() - started < 30  # of 600
    plugin = int((tmp_path / "plugin").read_text())
    deadline = time.monotonic() + 30
    while _runs(plugin):
        assert time.monotonic() < deadline, "what kubectl ran goes on"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_without_kubectl_words_are_completed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert ask_kubectl(["get", "pod"]) == []


def _programs(folder: Path, kubectl: Path) -> Path:
    """A folder for PATH with kubectl, the plugin, and what `completion` prints."""
    folder.mkdir()
    (folder / "kubectl").symlink_to(kubectl)
    plugin = f'#!/bin/sh\nexec env PYTHONPATH={CHECKOUT} {sys.executable} -m cli.main "$@"\n'
    for name, text in (("kubectl-mpslice", plugin), ("kubectl_complete-mpslice", SCRIPT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def test_a_real_kubectl_completes_the_plugins_words(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    folder = _programs(tmp_path / "bin", control_plane.parts.kubectl)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "KUBECONFIG": str(control_plane.kubeconfig),
    }
    control_plane.kubectl("create", "namespace", "completed-here")
    control_plane.kubectl("create", "cronjob", "nightly", "--schedule=0 0 * * *", "--image=i",
                          "--namespace=completed-here")  # fmt: skip

    def tab(*words: str) -> list[str]:
        done = subprocess.run(
            ["kubectl", "__complete", "mpslice", *words],
            env=environment, capture_output=True, text=True, timeout=DEADLINE, check=True,
        )  # fmt: skip
        return [line.partition("\t")[0] for line in done.stdout.splitlines()]

    try:
        assert tab("wh") == ["why", ":4"]
        assert tab("plan", "--output=w") == ["wide", ":4"]
        assert tab("plan", "-f", "") == [":0"]
        assert tab("status", "-n", "completed-") == ["completed-here", ":4"]
        assert tab("why", "-n", "completed-here", "cronjob/") == ["cronjob/nightly", ":4"]
    finally:
        control_plane.kubectl("delete", "namespace", "completed-here", "--wait=false")
