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
from pathlib import Path
from typing import Any, Final, NoReturn

from mpslice import __version__
from mpslice.errors import InvalidQuantity
from mpslice.gpus import MAX_SLICES_PER_GPU
from mpslice.quantities import whole

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
        raise ValueError("is no duration; write for example 200ms, 5s or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def address(text: str) -> Address:
    """`0.0.0.0:8443`, `[::]:8443` or `:8443`."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("is no host:port; write for example 0.0.0.0:8443")
    return Address(host.strip("[]") or "0.0.0.0", int(port))


def user_id(text: str) -> int:
    """A numeric uid."""
    if not text.isascii() or not text.isdigit() or int(text) > _MAX_ID:
        raise ValueError("is no numeric user id; write for example 1000")
    return int(text)


def positive(text: str) -> int:
    """A whole number, at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError("is no whole number above 0")
    return int(text)


def slice_limit(text: str) -> int:
    """How many slices may stand on a GPU: 1 to what MPS serves."""
    count = positive(text)
    if count > MAX_SLICES_PER_GPU:
        raise ValueError(f"is more than the {MAX_SLICES_PER_GPU} clients that MPS serves")
    return count


def mebibytes(text: str) -> int:
    """MiB, rounded up, from a Kubernetes quantity of bytes such as `256Mi`."""
    try:
        size = whole(text)
    except InvalidQuantity as error:
        raise ValueError("is no quantity of bytes; write for example 256Mi") from error
    if size < 0:
        raise ValueError("is negative")
    return -(-size >> 20)


def label(text: str) -> tuple[str, str]:
    """A node label, `key=value`."""
    key, separator, value = text.partition("=")
    if not separator or not key or not value:
        raise ValueError("is no label; write KEY=VALUE")
    return key, value


def absolute_path(text: str) -> Path:
    """A path that others are told too, the kubelet for one, and so means the same to all."""
    if not text.startswith("/"):
        raise ValueError("is no absolute path; write it from / on")
    return Path(text)


def choice(*allowed: str) -> Callable[[str], str]:
    """One word of a closed list."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"is not one of {', '.join(allowed)}")
        return text

    return parse


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
        shown = f"default {default}" if default else "no default"
        self._parsers[_destination(name)] = (name, parse)
        if not default:
            self._optional.add(_destination(name))
        shape: dict[str, Any] = {"metavar": metavar or name.rpartition("-")[2].upper()}
        if parse is boolean:
            shape = {"metavar": "true|false", "nargs": "?", "const": "true"}
        text = f"{help} ({shown}; ${variable})".replace("%", "%%")
        names = (short, name) if short else (name,)
        self.add_argument(*names, default=default, help=text, **shape)

    def parse(
        self, arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ
    ) -> argparse.Namespace:
        """The flags with their values parsed; exits with 2 and one line for an unusable one."""
        family = (self, *self._subcommands())
        for parser in family:
            parser._take_defaults(environment)
        namespace = self.parse_args(arguments)
        for parser in family:
            parser._convert(namespace)
        return namespace

    def _subcommands(self) -> Iterator["FlagParser"]:
        for action in self._actions:
            if isinstance(action.choices, dict):
                yield from (p for p in action.choices.values() if isinstance(p, FlagParser))

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
            try:
                value = None if text == "" and destination in self._optional else parse(text)
            except ValueError as error:
                self.error(f"{name}: {text!r} {error}")
            setattr(namespace, destination, value)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def environment_name(flag: str) -> str:
    """`MPSLICE_MPS_USER` for `--mps-user`."""
    return ENVIRONMENT_PREFIX + flag.strip("-").replace("-", "_").upper()


def _destination(flag: str) -> str:
    return flag.strip("-").replace("-", "_")
