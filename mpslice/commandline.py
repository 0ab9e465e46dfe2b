"""A program's commands and flags as records, read from its parser: completion and the manual pages
are made from them, so that they cannot differ from what the program takes.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mpslice.flags import FlagParser


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag. `metavar` is "" where it takes no value; `words` is the closed list of its values, ()
    where there is none; `needs_value`: the next word is its value unless `=` gives one.
    """

    names: tuple[str, ...]
    destination: str
    metavar: str
    meaning: str
    words: tuple[str, ...] = ()
    needs_value: bool = False
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Argument:
    """A word that is no flag."""

    destination: str
    metavar: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Command:
    """A program or one of its commands. `summary` is the line in the list of commands, "" for the
    program itself; `text` is its description and what follows the flags."""

    name: str
    summary: str
    text: str
    flags: tuple[Flag, ...]
    arguments: tuple[Argument, ...]
    commands: tuple["Command", ...]

    def command(self, word: str) -> "Command | None":
        """The command that a user calls by this word."""
        return next((each for each in self.commands if each.word == word), None)

    def flag(self, name: str) -> Flag | None:
        return next((each for each in self.flags if name in each.names), None)

    @property
    def word(self) -> str:
        """The last word of the name: `plan` of `kubectl mpslice plan`."""
        return self.name.rpartition(" ")[2]


def describe(parser: FlagParser, summary: str = "") -> Command:
    """All that a parser takes, its commands included, in the parser's order."""
    return Command(
        name=parser.prog,
        summary=summary,
        text="\n\n".join(filter(None, (parser.description, parser.epilog))),
        flags=tuple(_flag(parser, each) for each in parser._actions if each.option_strings),
        arguments=tuple(_argument(each) for each in parser._actions if _is_argument(each)),
        commands=tuple(_commands(parser)),
    )


def _flag(parser: FlagParser, action: argparse.Action) -> Flag:
    takes_value = action.nargs != 0
    return Flag(
        names=tuple(action.option_strings),
        destination=action.dest,
        metavar=_metavar(action) if takes_value else "",
        meaning=_meaning(action),
        words=parser.words(action.dest),
        needs_value=takes_value and action.nargs != "?",
        repeats=isinstance(action, argparse._AppendAction),
    )


def _argument(action: argparse.Action) -> Argument:
    return Argument(action.dest, _metavar(action), _meaning(action))


def _is_argument(action: argparse.Action) -> bool:
    return not action.option_strings and not isinstance(action.choices, dict)


def _commands(parser: FlagParser) -> Iterator[Command]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            listed: Any = action._choices_actions  # one for each command that has a help
            for choice in listed:
                made = action.choices[choice.dest]
                if isinstance(made, FlagParser):
                    yield describe(made, choice.help or "")


def _metavar(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())


def _meaning(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%")
