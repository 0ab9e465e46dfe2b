"""`mpslice-nodeagent close-driver`: agent and supervisor let go of the GPUs, for a reset."""

import sys
import time
from collections.abc import Sequence
from typing import Final

from mpslice import flags
from nodeagent.driver.closing import Closing, processes_with
from nodeagent.mps.paths import MpsRoot

PROGRAM: Final = "mpslice-nodeagent close-driver"

_PATIENCE: Final = 60.0  # seconds; agent and supervisor look every 10, and wait for Xids 10 more
_PAUSE: Final = 1.0


def parser() -> flags.FlagParser:
    """Its flags."""
    parser = flags.FlagParser(
        PROGRAM,
        "Asks agent and supervisor of this node to let go of the GPUs' driver for a while, and\n"
        "prints which processes still have a GPU open. Run it in one of their containers.\n\n"
        "Examples:\n"
        f"  {PROGRAM} --for=5m\n"
        f"  {PROGRAM} --end\n\n"
        "Exit status: 0 no process has a GPU open; 1 some still has, or it cannot be told.",
    )
    parser.flag("--for", flags.duration, "10m", "how long at most", "DURATION")
    parser.flag("--end", flags.boolean, "false", "they may use it again")
    parser.flag(
        "--mps-root", flags.absolute_path, "/run/mpslice", "where the request is left", "DIR"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when no process has a GPU open, 1 when some still has."""
    values = parser().parse(arguments)
    closing = Closing(MpsRoot(values.mps_root).closed)
    try:
        if values.end:
            closing.end()
            return 0
        closing.ask(vars(values)["for"])
    except OSError as error:
        sys.stderr.write(f"{PROGRAM}: --mps-root: {error.filename}: {error.strerror}\n")
        return 1
    until = time.monotonic() + _PATIENCE
    while left := processes_with():
        if time.monotonic() > until:
            names = ", ".join(f"{pid} ({name})" for pid, name in sorted(left.items()))
            sys.stderr.write(f"{PROGRAM}: these processes still have a GPU open: {names}\n")
            return 1
        time.sleep(_PAUSE)
    sys.stdout.write("no process has a GPU open; run nvidia-smi --gpu-reset, then --end\n")
    return 0
