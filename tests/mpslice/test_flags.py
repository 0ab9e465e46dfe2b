"""Flags: command line over environment over default; one line for what cannot be used."""

import subprocess
import sys
from pathlib import Path

import pytest

from mpslice.flags import (
    Address,
    FlagParser,
    absolute_path,
    address,
    boolean,
    duration,
    environment_name,
    mebibytes,
    user_id,
)


def a_parser() -> FlagParser:
    parser = FlagParser("prog", "Test.")
    parser.flag("--batch-idle", duration, "200ms", "help")
    parser.flag("--gate", boolean, "true", "help")
    parser.flag("--kubeconfig", str, "", "help")
    return parser


def test_command_line_beats_environment_beats_default() -> None:
    environment = {"MPSLICE_BATCH_IDLE": "3s", "MPSLICE_GATE": "false"}
    options = a_parser().parse(["--batch-idle=1m"], environment)
    assert (options.batch_idle, options.gate, options.kubeconfig) == (60.0, False, None)


@pytest.mark.parametrize(
    ("arguments", "gate"), [(["--gate"], True), (["--gate=false"], False), ([], True)]
)
def test_boolean_is_written_as_kubernetes_does(arguments: list[str], gate: bool) -> None:
    assert a_parser().parse(arguments, {}).gate is gate


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        (["--batch-idle=fast"], {}, "prog: --batch-idle: 'fast' is no duration"),
        ([], {"MPSLICE_GATE": "maybe"}, "prog: --gate: 'maybe' is neither true nor false"),
        (["--no-such"], {}, "prog: unrecognized arguments: --no-such"),
    ],
)
def test_unusable_value_ends_with_one_line_that_names_the_flag(
    arguments: list[str],
    environment: dict[str, str],
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        a_parser().parse(arguments, environment)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_values_are_read_with_their_units() -> None:
    assert duration("1h30m") == 5400
    assert duration("250ms") == 0.25
    assert mebibytes("256Mi") == 256
    assert mebibytes("1") == 1
    assert address("0.0.0.0:8443") == Address("0.0.0.0", 8443)
    assert str(address("[::]:80")) == "[::]:80"
    assert user_id("1000") == 1000
    assert environment_name("--mps-user") == "MPSLICE_MPS_USER"


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (duration, "-1s"),
        (duration, "5"),
        (absolute_path, ""),
        (absolute_path, "run/mpslice"),
        (address, "8443"),
        (address, "host:70000"),
        (user_id, "root"),
        (user_id, "-1"),
        (mebibytes, "-1Mi"),
    ],
)
def test_unusable_text_is_refused(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match="is "):
        parse(text)


@pytest.mark.parametrize(
    "program", ["mpslice-webhook", "mpslice-planner", "mpslice-nodeagent", "kubectl-mpslice"]
)
def test_every_program_answers_help_and_version(program: str) -> None:
    executable = Path(sys.executable).parent / program
    for flag in ("--help", "--version"):
        done = subprocess.run([executable, flag], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert done.stdout
