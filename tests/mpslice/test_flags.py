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
    choice,
    duration,
    environment_name,
    loopback,
    mebibytes,
    user_id,
)
from tests.waiting import DEADLINE


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
        (["--batch-idle=fast"], {}, "prog: --batch-idle: 'fast' is not a duration"),
        ([], {"MPSLICE_GATE": "maybe"}, "prog: --gate: 'maybe' is neither true nor false"),
        (["--no-such"], {}, "prog: unknown flag --no-such"),
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
        done = subprocess.run([executable, flag], capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize("text", ["127.0.0.1:8082", "[::1]:8082", "127.8.0.1:0"])
def test_loopback_addresses_are_taken_where_nothing_else_may_be(text: str) -> None:
    assert str(loopback(text)) == text


@pytest.mark.parametrize(
    "text", [":8082", "0.0.0.0:8082", "10.0.0.1:8082", "[::]:80", "planner:80"]
)
def test_what_the_network_reaches_is_no_loopback_address(text: str) -> None:
    with pytest.raises(ValueError, match="can be reached from the network; write for example 127"):
        loopback(text)


def test_flag_of_one_subcommand_is_not_judged_by_another_that_has_one_of_its_name() -> None:
    top = FlagParser("prog", "Test.")
    commands = top.add_subparsers(dest="command")
    for name, parse in (("wait", duration), ("ask", boolean)):
        commands.add_parser(name).flag("--value", parse, "1" if parse is boolean else "1s", "help")
    assert top.parse(["wait", "--value=2s"], {}).value == 2.0
    assert top.parse(["ask", "--value=false"], {}).value is False


def parser() -> FlagParser:
    made = FlagParser("program")
    made.flag("--format", choice("table", "json"), "table", "how")
    made.flag("--mps-user", user_id, "1000", "the uid")
    made.repeatable("--user", user_id, "uids", "UID", short="-u")
    return made


def test_help_shows_the_words_that_a_flag_takes() -> None:
    assert "--format table|json" in parser().format_help()


def test_flags_that_were_given_are_told_from_defaults() -> None:
    assert "mps_user" not in parser().parse([], {}).given
    assert "mps_user" in parser().parse(["--mps-user=1000"], {}).given
    assert "mps_user" in parser().parse([], {"MPSLICE_MPS_USER": "1000"}).given


def test_repeatable_flag_is_a_list_of_parsed_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert parser().parse(["-u", "1", "--user=2"], {}).user == [1, 2]
    assert parser().parse([], {}).user == []
    with pytest.raises(SystemExit):
        parser().parse(["--user=root"], {})
    assert "--user: 'root' is not a numeric user id" in capsys.readouterr().err
