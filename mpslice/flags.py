"""Flags in Kubernetes' own style: `--batch-idle=200ms`, `--gate=false`, `MPSLICE_BATCH_IDLE`.

argparse does the work; what is added is the environment, the types, and that every unusable value
ends the start with one line that names the flag.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NoReturn

from mpslice import __version__
from mpslice.errors import InvalidQuantity
from mpslice.gpus import MAX_SLICES_PER_GPU
from mpslice.quantities import whole
from mpslice.slices import SliceSize, parse_size_label

ENVIRONMENT_PREFIX: Final = "MPSLICE_"

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+", re.ASCII)
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_ID: Final = 2**31 - 1  # what Kubernetes accepts as runAsUser


@dataclass(frozen=True, slots=True)
class Address:
    """A `host:port` to listen on; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def boolean(text: str) -> bool:
    """`true`, `false` and what else Go's strconv.ParseBool takes."""
    match text.lower():
        case "true" | "t" | "1":
            return True
        case "false" | "f" | "0":
            return False
    raise ValueError("is neither true nor false")


def duration(text: str) -> float:
    """Seconds from `200ms`, `5m` or `1h30m`."""
    if _DURATION.fullmatch(text) is None:
        raise ValueError("is not a duration; write for example 200ms, 5s or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def address(text: str) -> Address:
    """`0.0.0.0:8443`, `[::]:8443` or `:8443`."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("is not host:port; write for example 0.0.0.0:8443")
    return Address(host.strip("[]") or "0.0.0.0", int(port))


def loopback(text: str) -> Address:
    """An address that no other machine reaches."""
    parsed = address(text)
    try:
        local = ip_address(parsed.host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ValueError("can be reached from the network; write for example 127.0.0.1:8082")
    return parsed


def user_id(text: str) -> int:
    """A numeric uid."""
    if not text.isascii() or not text.isdigit() or int(text) > _MAX_ID:
        raise ValueError("is not a numeric user id; write for example 1000")
    return int(text)


def positive(text: str) -> int:
    """A whole number, at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError("is not a whole number above 0")
    return int(text)


def slice_limit(text: str) -> int:
    """How many slices may stand on a GPU: 1 to what MPS serves."""
    count = positive(text)
    if count > MAX_SLICES_PER_GPU:
        raise ValueError(f"is more than the {MAX_SLICES_PER_GPU} clients that MPS serves")
    return count


def slice_size(text: str) -> SliceSize:
    """`10gb`."""
    found = parse_size_label(text)
    if found is None:
        raise ValueError("is not the size of a slice; write for example 10gb")
    return found


def mebibytes(text: str) -> int:
    """MiB, rounded up, from a Kubernetes quantity of bytes such as `256Mi`."""
    try:
        size = whole(text)
    except InvalidQuantity as error:
        raise ValueError("is not a quantity of bytes; write for example 256Mi") from error
    if size < 0:
        raise ValueError("is negative")
    return -(-size >> 20)


def label(text: str) -> tuple[str, str]:
    """A node label, `key=value`."""
    key, separator, value = text.partition("=")
    if not separator or not key or not value:
        raise ValueError("is not a label; write KEY=VALUE")
    return key, value


def absolute_path(text: str) -> Path:
    """A path that others are told too, the kubelet for one, and so means the same to all."""
    if not text.startswith("/"):
        raise ValueError("is not an absolute path; begin it with /")
    return Path(text)


@dataclass(frozen=True, slots=True)
class Choice:
    """Parses one word of a closed list; `--help` shows the words."""

    allowed: tuple[str, ...]

    def __call__(self, text: str) -> str:
        if text not in self.allowed:
            raise ValueError(f"is not one of {', '.join(self.allowed)}")
        return text


def choice(*allowed: str) -> Choice:
    """One word of a closed list."""
    return Choice(allowed)


class _Default(str):
    """A flag's own default, which is told from the same text given by the user."""

    __slots__ = ()


class FlagParser(argparse.ArgumentParser):
    """An ArgumentParser whose flags can also be set in the environment; the command line wins.

    Subcommands are FlagParsers too, and are parsed with it.
    """

    def __init__(self, prog: str, description: str = "", **kwargs: Any) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )
        self._parsers: dict[str, tuple[str, Callable[[str], Any]]] = {}
        self._optional: set[str] = set()
        self._repeatable: dict[str, tuple[str, Callable[[str], Any]]] = {}

    def add_version(self) -> None:
        self.add_argument(
            "--version",
            action="version",
            version=f"%(prog)s {__version__}",
            help="print the version",
        )

    def flag(
        self,
        name: str,
        parse: Callable[[str], Any],
        default: str,
        help: str,
        metavar: str = "",
        *,
        short: str = "",
    ) -> None:
        """Adds a flag; `default` is written as a user would write it, "" for none (None)."""
        variable = environment_name(name)
        shown = f"default {default}; " if default else ""
        self._parsers[_destination(name)] = (name, parse)
        if not default:
            self._optional.add(_destination(name))
        if isinstance(parse, Choice) and not metavar:
            metavar = "|".join(parse.allowed)
        shape: dict[str, Any] = {"metavar": metavar or name.rpartition("-")[2].upper()}
        if parse is boolean:
            shape = {"metavar": "true|false", "nargs": "?", "const": "true"}
        text = f"{help} ({shown}${variable})".replace("%", "%%")
        names = (short, name) if short else (name,)
        self.add_argument(*names, default=_Default(default), help=text, **shape)

    def repeatable(
        self,
        name: str,
        parse: Callable[[str], Any],
        help: str,
        metavar: str,
        *,
        short: str = "",
    ) -> None:
        """Adds a flag that may be given several times; its value is a list, and no variable of the
        environment sets it."""
        self._repeatable[_destination(name)] = (name, parse)
        names = (short, name) if short else (name,)
        text = f"{help}; may be given several times".replace("%", "%%")
        self.add_argument(*names, action="append", default=[], metavar=metavar, help=text)

    def words(self, destination: str) -> tuple[str, ...]:
        """The closed list of words that a flag takes, () where its values are no such list."""
        known = {**self._repeatable, **self._parsers}
        _, parse = known.get(destination, ("", str))
        if parse is boolean:
            return ("true", "false")
        return tuple(map(str, parse.allowed)) if isinstance(parse, Choice) else ()

    def parse(
        self, arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ
    ) -> argparse.Namespace:
        """The flags with their values parsed; exits with 2 and one line for an unusable one.

        `given` names the destinations of those that the user or the environment has set.
        """
        for parser in (self, *self._subcommands()):
            parser._take_defaults(environment)
        namespace, left = self.parse_known_args(arguments)
        if left:
            [self, *self._called(namespace)][-1]._refuse(left[0])
        texts = vars(namespace).items()
        namespace.given = frozenset(name for name, text in texts if not isinstance(text, _Default))
        for parser in (self, *self._called(namespace)):
            parser._convert(namespace)
        return namespace

    def _subcommands(self) -> Iterator["FlagParser"]:
        for action in self._actions:
            if isinstance(action.choices, dict):
                yield from (p for p in action.choices.values() if isinstance(p, FlagParser))

    def _called(self, namespace: argparse.Namespace) -> Iterator["FlagParser"]:
        """The subcommand that was called; another may have a flag of this name and another type."""
        for action in self._actions:
            if isinstance(action.choices, dict):
                called = action.choices.get(getattr(namespace, action.dest, None))
                if isinstance(called, FlagParser):
                    yield called

    def _take_defaults(self, environment: Mapping[str, str]) -> None:
        for destination, (name, _) in self._parsers.items():
            # An empty variable is what a template renders for a value that is not set.
            if value := environment.get(environment_name(name)):
                self.set_defaults(**{destination: value})

    def _convert(self, namespace: argparse.Namespace) -> None:
        for destination, (name, parse) in self._parsers.items():
            text = getattr(namespace, destination, None)
            if not isinstance(text, str):
                continue  # a flag of a subcommand that was not called
            unset = text == "" and destination in self._optional
            setattr(namespace, destination, None if unset else self._parsed(name, parse, str(text)))
        for destination, (name, parse) in self._repeatable.items():
            texts = getattr(namespace, destination, [])
            setattr(namespace, destination, [self._parsed(name, parse, text) for text in texts])

    def _parsed(self, name: str, parse: Callable[[str], Any], text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            self.error(f"{name}: {text!r} {error}")

    def _refuse(self, word: str) -> NoReturn:
        """A flag that there is not, or a word where none belongs."""
        if word.startswith("-"):
            flag = word.partition("=")[0]
            known = [each for action in self._actions for each in action.option_strings]
            self.error(f"unknown flag {flag}{_meant(flag, known)}")
        files = "; give files with -f" if "-f" in self._option_string_actions else ""
        self.error(f"unexpected argument {word!r}{files}")

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {self._plain(message)}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)

    def _plain(self, message: str) -> str:
        """What argparse says, in the words of the other messages."""
        commands = {
            a.metavar: list(a.choices) for a in self._actions if isinstance(a.choices, dict)
        }
        for said, plain in _ARGPARSES_WORDS:
            if found := said.fullmatch(message):
                return found.expand(plain) + _one_of(commands.get(found[1], ()))
        if found := _NO_COMMAND.match(message):
            known = [name for names in commands.values() for name in names]
            meant = _meant(found[1], known) or _one_of(known)
            return f"unknown command {found[1]!r}{meant}"
        return message


_ARGPARSES_WORDS: Final = (
    (re.compile(r"argument (?:-\w/)?(\S+): expected one argument"), r"\1 needs a value"),
    (re.compile(r"argument (?:-\w/)?(\S+): ignored explicit argument .*"), r"\1 takes no value"),
    (re.compile(r"the following arguments are required: (.+)"), r"\1 is missing"),
)
_NO_COMMAND: Final = re.compile(r"argument \S+: invalid choice: '([^']*)'")


def _one_of(words: Sequence[str]) -> str:
    return f"; write one of {', '.join(words)}" if words else ""


def _meant(word: str, known: Sequence[str]) -> str:
    """`; did you mean --assume-label?`, "" where nothing known is like the word."""
    like = get_close_matches(word, known, 1, 0.7)
    return f"; did you mean {like[0]}?" if like else ""


def need_programs_extra(program: str, *modules: str) -> None:
    """Ends with one line where a module of the extra `programs` is missing."""
    if missing := [name for name in modules if find_spec(name) is None]:
        lacking = ", ".join(missing)
        sys.exit(f"{program}: not installed: {lacking}; pip install mpslice[programs]")


def environment_name(flag: str) -> str:
    """`MPSLICE_MPS_USER` for `--mps-user`."""
    return ENVIRONMENT_PREFIX + flag.strip("-").replace("-", "_").upper()


def _destination(flag: str) -> str:
    return flag.strip("-").replace("-", "_")
