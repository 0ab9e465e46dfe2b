"""Completes the words of `kubectl mpslice`, in the way that kubectl asks plugins for it.

kubectl runs `kubectl_complete-mpslice` with the words so far; it prints candidates and a directive
(kubectl's pkg/cmd/plugin/plugin_completion.go). One program serves bash, zsh, fish and PowerShell.
Names of objects come from kubectl itself, with the user's own credentials.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from mpslice.commandline import Argument, Command, Flag
from mpslice.flags import environment_name

SCRIPT: Final = """\
#!/bin/sh
# Called by kubectl with the words to complete after `kubectl mpslice`.
exec kubectl-mpslice __complete "$@"
"""
"""`kubectl_complete-mpslice` for an installation that brings the program kubectl-mpslice alone."""

PATIENCE: Final = 2.0
"""Seconds that kubectl may take for names."""

# cobra's ShellCompDirective
DEFAULT, NO_SPACE, NO_FILES, FOLDERS = 0, 2, 4, 16

_OBJECTS: Final = {
    "namespace": "namespaces",
    "agents_namespace": "namespaces",
    "context": "contexts",
    "node": "nodes",
    "add_node": "nodes",
    "like": "nodes",
}
"""Flags, by destination, whose values are names of these objects."""

KINDS: Final = (
    "pod",
    "node",
    "deployment",
    "replicaset",
    "statefulset",
    "daemonset",
    "job",
    "cronjob",
)
"""What `why` takes before a `/`."""

_PASSED_ON: Final = ("kubeconfig", "context", "as", "as_group", "namespace")

Ask = Callable[[Sequence[str]], Sequence[str]]
"""Takes kubectl's arguments; returns the lines of its answer, none where it failed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the last word may become: `words` with their meanings, or names of `objects`, kubectl's
    word for them. `ahead` stands before each name; `given` are the flags so far."""

    start: str
    words: tuple[tuple[str, str], ...] = ()
    objects: str = ""
    ahead: str = ""
    directive: int = NO_FILES
    given: Mapping[str, Sequence[str]] = field(default_factory=dict)


def wanted(command: Command, words: Sequence[str]) -> Wanted:
    """Returns what the last word may become; `words` are those after the program's name."""
    *before, last = words or [""]
    given: dict[str, list[str]] = {}
    arguments = list(command.arguments)
    pending: Flag | None = None
    for word in before:
        if pending:
            given.setdefault(pending.destination, []).append(word)
            pending = None
        elif word.startswith("-"):
            flag, value = _read(command, word)
            if flag and flag.needs_value and value is None:
                pending = flag
            elif flag:
                given.setdefault(flag.destination, []).append(value or "")
        elif command.commands:
            called = command.command(word)
            if called is None:
                return Wanted(last)
            command, arguments = called, list(called.arguments)
        else:
            arguments = arguments[1:]
    if pending:
        return _value(pending, last, given)
    if last.startswith("-"):
        flag, value = _read(command, last)
        return _flags(command, last, given) if value is None else _value(flag, value, given)
    if command.commands:
        return Wanted(last, tuple((each.word, each.summary) for each in command.commands))
    return _argument(arguments[0], last, given) if arguments else Wanted(last)


def _read(command: Command, word: str) -> tuple[Flag | None, str | None]:
    """Splits `--output=json` or `-ojson` into flag and value; None for a part that is missing."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return command.flag(name), value if equals else None
    return command.flag(word[:2]), word[2:].removeprefix("=") if word[2:] else None


def _flags(command: Command, start: str, given: Mapping[str, Sequence[str]]) -> Wanted:
    """Returns the long names of flags that are not given yet, or may be given again."""
    left = [each for each in command.flags if each.repeats or each.destination not in given]
    return Wanted(start, tuple((each.names[-1], each.meaning) for each in left))


def _value(flag: Flag | None, start: str, given: Mapping[str, Sequence[str]]) -> Wanted:
    if flag is None or not flag.metavar:
        return Wanted(start)
    if flag.words:
        return Wanted(start, tuple((word, "") for word in flag.words))
    if flag.metavar in ("FILE", "DIR"):
        return Wanted(start, directive=FOLDERS if flag.metavar == "DIR" else DEFAULT)
    return Wanted(start, objects=_OBJECTS.get(flag.destination, ""), given=given)


def _argument(argument: Argument, start: str, given: Mapping[str, Sequence[str]]) -> Wanted:
    if argument.destination != "target":
        return Wanted(start)
    kind, slash, _ = start.partition("/")
    if not slash:
        kinds = tuple((f"{each}/", f"a {each}") for each in KINDS)
        return Wanted(start, kinds, "pod", given=given)
    known = kind in KINDS
    return Wanted(start, objects=kind if known else "", ahead=f"{kind}/", given=given)


def question(wanted: Wanted, environment: Mapping[str, str]) -> list[str]:
    """The arguments by which kubectl names the objects that are wanted."""
    if wanted.objects == "contexts":
        asked, passed = ["config", "get-contexts"], ["kubeconfig"]
    else:
        asked = ["get", wanted.objects, f"--request-timeout={PATIENCE:.0f}s"]
        passed = list(_PASSED_ON)
    for name in passed:
        # A flag that may be given several times has no variable.
        variable = "" if name == "as_group" else environment.get(environment_name(name), "")
        values = wanted.given.get(name) or [variable]
        asked += [f"--{name.replace('_', '-')}={value}" for value in values if value]
    return [*asked, "--output=name"]


def answer(
    command: Command, words: Sequence[str], ask: Ask, environment: Mapping[str, str]
) -> list[str]:
    """The lines of the answer: candidates, each with its meaning after a tab, and the directive."""
    sought = wanted(command, words)
    found = list(sought.words)
    if sought.objects:
        names = ask(question(sought, environment))
        if sought.objects != "contexts":  # whose names may have a /; all others are kind/name
            names = [line.partition("/")[2] for line in names]
        found = [(f"{sought.ahead}{each}", "") for each in names if each.isprintable()] + found
    fitting = [(word, meaning) for word, meaning in found if word.startswith(sought.start)]
    directive = sought.directive
    if fitting and all(word.endswith("/") for word, _ in fitting):
        directive |= NO_SPACE
    return [*("\t".join(filter(None, each)) for each in fitting), f":{directive}"]


def ask_kubectl(arguments: Sequence[str]) -> list[str]:
    """The lines that the kubectl on PATH prints; none where it fails or takes over PATIENCE.

    It has no terminal, so a credential plugin cannot ask for a password in the middle of a line.
    """
    try:
        process = subprocess.Popen(  # noqa: S603  # no shell, and each value is part of its flag
            ["kubectl", *arguments],  # noqa: S607  # the one that the user calls
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    except OSError:
        return []
    with process:
        try:
            printed, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and the credential plugin that it runs
            return []
    return printed.splitlines() if process.returncode == 0 else []
