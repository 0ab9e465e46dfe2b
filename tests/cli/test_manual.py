"""`--help` and the manual pages have examples that the parsers take, and every flag."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.main import parser as plugin
from cli.manual import of_the_plugin, of_the_programs, page
from mpslice.commandline import Command
from mpslice.flags import FlagParser
from nodeagent.driver.main import parser as close_driver
from nodeagent.main import parser as agent
from nodeagent.mps.main import parser as mps
from nodeagent.verify.__main__ import parser as verify
from planner.main import flags as planner
from tests.waiting import DEADLINE
from webhook.main import flags as webhook

# The longest name first: the agent's own is a part of its commands'.
PARSERS: dict[str, Callable[[], FlagParser]] = {
    "kubectl mpslice": plugin,
    "mpslice-webhook": webhook,
    "mpslice-planner": planner,
    "mpslice-nodeagent mps": mps,
    "mpslice-nodeagent close-driver": close_driver,
    "mpslice-nodeagent verify": verify,
    "mpslice-nodeagent": agent,
}


PAGES = [of_the_plugin(), *of_the_programs()]


def everything() -> Iterator[Command]:
    for program, _ in PAGES:
        yield program
        yield from program.commands


COMMANDS = list(everything())


def examples(command: Command) -> list[str]:
    """The command lines below `Examples:`, those that go on with a backslash put together."""
    shown = command.text.partition("Examples:\n")[2].replace("\\\n", " ")
    return [line.strip() for line in shown.partition("\n\n")[0].splitlines()]


def words(line: str) -> list[str]:
    """The words of the last command of a pipe, without where its output goes."""
    return shlex.split(line.rpartition(" | ")[2].partition(" > ")[0])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_command_has_examples_that_its_parser_takes(command: Command) -> None:
    name = command.name.split(" ")
    own = [given for line in examples(command) if (given := words(line))[: len(name)] == name]
    assert own, f"{command.name} --help shows no example"
    for given in own:
        program = next(each for each in PARSERS if given[: len(each.split(" "))] == each.split(" "))
        PARSERS[program]().parse(given[len(program.split(" ")) :], {})


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_flag_says_what_it_does_its_default_and_its_variable(command: Command) -> None:
    for flag in command.flags:
        assert flag.meaning, f"{command.name} {flag.names[-1]}"
        if flag.metavar and not flag.repeats:
            told = re.search(r"\((default .+; )?\$MPSLICE_[A-Z_]+\)$", flag.meaning)
            assert told, f"{command.name} {flag.names[-1]}"
        if flag.words:
            assert all(word in flag.metavar.split("|") for word in flag.words)


@pytest.mark.parametrize(("program", "section"), PAGES, ids=lambda each: getattr(each, "name", ""))
def test_page_has_every_command_flag_and_example(program: Command, section: int) -> None:
    text = page(program, section)
    plain = text.replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\").replace("\\&", "")
    for command in (program, *program.commands):
        for flag in command.flags:
            assert f"\\fB{flag.names[-1]}\\fR" in plain
            assert flag.meaning in plain
        for line in command.text.splitlines():
            assert line.strip() in plain
    macros = {line.split(" ")[0] for line in text.splitlines() if line.startswith((".", "'"))}
    assert macros <= {
        ".TH",
        ".nh",
        ".ad",
        ".SH",
        ".SS",
        ".br",
        ".PP",
        ".TP",
        ".RS",
        ".RE",
        ".nf",
        ".fi",
    }
    if groff := shutil.which("groff"):
        done = subprocess.run(
            [groff, "-man", "-Tutf8", "-ww", "-z"],
            input=text, capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_pages_are_written_where_man_looks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli.manual", tmp_path],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*")}
    daemons = {f"man8/mpslice-{name}.8" for name in ("webhook", "planner", "nodeagent")}
    assert made == {"man1/kubectl-mpslice.1", *daemons}
