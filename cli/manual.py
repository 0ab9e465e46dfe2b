"""`python -m cli.manual FOLDER`: writes the manual pages of all programs, from their parsers.

The pages are made when the programs are packaged, so no page is older than its program.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cli.main import parser as plugin
from mpslice import __version__
from mpslice.commandline import Command, Flag, describe

USER, ADMINISTRATOR = 1, 8
"""Sections of the manual, as man(1) counts them."""

Page = tuple[Command, int]


def of_the_plugin() -> Page:
    """The plugin with its commands, and its section."""
    return describe(plugin()), USER


def of_the_programs() -> list[Page]:
    """The other programs; raises ModuleNotFoundError without the extra `programs`."""
    from nodeagent.driver.main import parser as close_driver
    from nodeagent.main import parser as agent
    from nodeagent.mps.main import parser as mps
    from nodeagent.verify.__main__ import parser as verify
    from planner.main import flags as planner
    from webhook.main import flags as webhook

    commands = tuple(describe(each()) for each in (mps, close_driver, verify))
    return [
        (describe(webhook()), ADMINISTRATOR),
        (describe(planner()), ADMINISTRATOR),
        (replace(describe(agent()), commands=commands), ADMINISTRATOR),
    ]


def page(program: Command, section: int) -> str:
    """The page in the macros of man(7)."""
    return "\n".join((*_page(program, section), ""))


def _page(program: Command, section: int) -> Iterator[str]:
    title = program.name.replace(" ", "-")
    summary = program.text.partition("\n")[0].rstrip(".")
    yield f'.TH {_roff(title.upper())} {section} "" "mpslice {__version__}" mpslice'
    yield from (".nh", ".ad l")  # no flag or variable is broken in two
    yield from (".SH NAME", f"{_roff(title)} \\- {_roff(summary)}")
    yield from (".SH SYNOPSIS", *_synopsis(program))
    yield from (f".br\n{line}" for each in program.commands for line in _synopsis(each))
    yield from (".SH DESCRIPTION", *_text(program.text))
    yield from (".SH OPTIONS", *_flags(program))
    if program.commands:
        yield ".SH COMMANDS"
    for each in program.commands:
        yield from (f'.SS "{_roff(each.name)}"', *_text(each.text), *_flags(each))


def _synopsis(command: Command) -> Iterator[str]:
    words = [*(_roff(each.metavar) for each in command.arguments), "[\\fIflags\\fR]"]
    yield f"\\fB{_roff(command.name)}\\fR {' '.join(words)}"


def _flags(command: Command) -> Iterator[str]:
    for argument in command.arguments:
        yield from (".TP", f"\\fI{_roff(argument.metavar)}\\fR", _roff(argument.meaning))
    for flag in command.flags:
        yield from (".TP", _names(flag), _roff(flag.meaning))


def _names(flag: Flag) -> str:
    names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in flag.names)
    return f"{names} \\fI{_roff(flag.metavar)}\\fR" if flag.metavar else names


def _text(text: str) -> Iterator[str]:
    """Paragraphs; lines that are indented, as examples are, stay as they are."""
    shown = False
    for line in text.splitlines():
        if line.startswith("  ") != shown:
            shown = not shown
            yield from (".RS 4", ".nf") if shown else (".fi", ".RE")
        yield _roff(line.removeprefix("  ")) if line else ".PP"
    if shown:
        yield from (".fi", ".RE")


def _roff(text: str) -> str:
    """The text as roff prints it: a backslash is not its own, nor a line that begins with a dot."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{plain}" if plain.startswith(".") else plain


def write(folder: Path, program: Command, section: int) -> Path:
    """Writes `man1/kubectl-mpslice.1`, for one, below the folder; returns the file."""
    file = folder / f"man{section}" / f"{program.name.replace(' ', '-')}.{section}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(program, section))
    return file


def main() -> None:
    """Writes the pages of all programs that are installed, and names the files."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cli.manual FOLDER, such as ~/.local/share/man")
    pages = [of_the_plugin()]
    try:
        pages += of_the_programs()
    except ModuleNotFoundError as error:
        print(f"the plugin's page alone: mpslice[programs] is not installed ({error})")
    for program, section in pages:
        print(write(Path(sys.argv[1]), program, section))


if __name__ == "__main__":
    main()
