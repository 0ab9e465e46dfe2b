"""What agent and supervisor tell each other, one small JSON file per GPU and direction.

Whole files are put in place of old ones, so a reader never sees half of one; a file that cannot be
read changes nothing.
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from mpslice.gpus import GpuUuid
from nodeagent.mps.errors import BadMpsSettings, UnreadableRecord
from nodeagent.mps.paths import MpsRoot

_HIDDEN: Final = "."  # what is being written; readers pass it over


class MpsState(StrEnum):
    """How a GPU's daemon fares. All but READY let no container start."""

    STARTING = "Starting"
    READY = "Ready"
    DOWN = "Down"
    FAULT = "Fault"
    WRONG_USER = "WrongUser"
    STOPPING = "Stopping"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the agent wants of a GPU that it holds.

    `limit_mib` is the backstop, the limit of the largest slice there; `used` says whether any slice
    there is held. A new `check` asks for everything to be read back once more.
    """

    limit_mib: int
    used: bool = False
    check: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """What has become of it; `message` says why it is not READY.

    `limit_mib` and `check` are those of the last Wanted that was found fulfilled, `at` the time of
    the last look in seconds since boot, `restarts` how often a daemon was started again since then.
    """

    state: MpsState
    message: str = ""
    limit_mib: int = 0
    check: str = ""
    restarts: int = 0
    at: float = 0.0
    shm: str = ""

    def same_but_for_time(self, other: "Status") -> bool:
        return replace(self, at=0.0) == replace(other, at=0.0)


def seconds_since_boot() -> float:
    """The clock of `Status.at`: the same in every container of the machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def make_directories(root: MpsRoot) -> None:
    """What both sides need before either can tell the other anything.

    Blocks; raises BadMpsSettings.
    """
    try:
        for directory in (root.wanted, root.status):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.root.chmod(0o755)  # servers run as the MPS user and have to pass
    except OSError as error:
        raise BadMpsSettings(
            f"--mps-root: {error.filename} cannot be made ({error.strerror}); the directory is "
            "root's, and agent and supervisor share it"
        ) from error


def read_wanted(directory: Path) -> tuple[dict[GpuUuid, Wanted], list[UnreadableRecord]]:
    """All that the agent wants, and what cannot be read. Blocks."""
    return _read_all(directory, parse_wanted)


def read_statuses(directory: Path) -> tuple[dict[GpuUuid, Status], list[UnreadableRecord]]:
    """All that the supervisor says, and what cannot be read. Blocks."""
    return _read_all(directory, parse_status)


def write_record(directory: Path, gpu: GpuUuid, record: Wanted | Status) -> None:
    """Puts a GPU's file in place, whole. Blocks; raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_HIDDEN, dir=directory)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(record), file)
        os.replace(name, directory / gpu)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove_record(directory: Path, gpu: GpuUuid) -> None:
    """Takes a GPU's file away, if there is one. Blocks."""
    (directory / gpu).unlink(missing_ok=True)


def parse_wanted(text: str) -> Wanted:
    """Raises UnreadableRecord."""
    fields = _object(text)
    limit = _field(fields, "limit_mib", int)
    if limit < 1:
        raise UnreadableRecord(f"limit_mib is {limit}")
    return Wanted(limit, _field(fields, "used", bool), _field(fields, "check", str))


def parse_status(text: str) -> Status:
    """Raises UnreadableRecord."""
    fields = _object(text)
    try:
        state = MpsState(_field(fields, "state", str))
    except ValueError as error:
        raise UnreadableRecord(str(error)) from error
    return Status(
        state,
        message=_field(fields, "message", str),
        limit_mib=_field(fields, "limit_mib", int),
        check=_field(fields, "check", str),
        restarts=_field(fields, "restarts", int),
        at=float(_field(fields, "at", (int, float))),
        shm=_field(fields, "shm", str),
    )


def _read_all(directory: Path, parse: Any) -> tuple[dict[GpuUuid, Any], list[UnreadableRecord]]:
    records, problems = {}, []
    try:
        paths = sorted(path for path in directory.iterdir() if path.name[0] != _HIDDEN)
    except FileNotFoundError:
        return {}, []
    for path in paths:
        try:
            records[GpuUuid(path.name)] = parse(path.read_text())
        except FileNotFoundError:
            continue
        except (UnreadableRecord, OSError, UnicodeDecodeError) as error:
            problems.append(UnreadableRecord(f"{path}: {error}", GpuUuid(path.name)))
    return records, problems


def _object(text: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UnreadableRecord(f"is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UnreadableRecord("is no JSON object")
    return fields


def _field(fields: Mapping[str, Any], name: str, kind: Any) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UnreadableRecord(f"{name} is {value!r:.40}")
    return value
