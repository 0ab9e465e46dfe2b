"""The logs of a daemon and its servers: kept from growing without end, and asked for a reason.

They are opened for appending, so emptying them under their writers is safe; what is lost in that
moment is lost.
"""

import os
from pathlib import Path
from typing import Final

LARGEST: Final = 4 << 20
"""Bytes of one log; then its newest quarter is moved aside, into `<name>.1`."""

_KEPT: Final = LARGEST // 4
_TAIL: Final = 8192
_COMPLAINTS: Final = ("fail", "error", "unable", "insufficient", "invalid", "busy")


def bound_logs(directory: Path) -> None:
    """Shortens each log that has grown too large. Blocks; what it cannot shorten it leaves."""
    for path in directory.glob("*.log"):
        try:
            if path.stat().st_size > LARGEST:
                path.with_name(f"{path.name}.1").write_bytes(_end_of(path, _KEPT))
                os.truncate(path, 0)
        except OSError:
            continue


def last_complaint(directory: Path) -> str:
    """The newest line that says why something failed, without its time; "" when none does."""
    for name in ("server.log", "control.log"):
        try:
            text = _end_of(directory / name, _TAIL).decode(errors="replace")
        except OSError:
            continue
        for line in reversed(text.splitlines()):
            message = line.partition("] ")[2]
            if any(word in message.lower() for word in _COMPLAINTS):
                return message[:200]
    return ""


def _end_of(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - length))
        return file.read(length)
