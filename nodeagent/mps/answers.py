"""All that is assumed of NVIDIA's `nvidia-cuda-mps-control` beyond NVIDIA's documentation.

| assumption | seen with drivers |
| --- | --- |
| `-f` stays in the foreground and logs to its output, and so do its servers | 535, 550 |
| without a daemon a command ends with status 1 and `Cannot find MPS control daemon` | 535, 550 |
| a refused command ends with status 0; a limit that was refused is read back as it was | 535, 550 |
| lists are one process ID a line, beside messages in words | 535, 550 |
| `get_server_status` answers one word; 535 answers `Unknown command` | 535, 550 |
| a limit is printed in its largest unit, rounded down; `1.5G` would be read as 1M | 535, 550 |
| a server inherits the environment of its daemon, and the daemon finds it by PATH | 535, 550 |
| a daemon that cannot load libcuda.so.1 ends with status 244 and prints nothing | 580, 595, 615 |

Drivers 580, 595 and 615 were seen without a GPU and in the background only. Nothing is assumed of
the files in the pipe directory but the socket `control`, and nothing of which process holds a lock
there: driver 615 has no `control_lock`.
"""

import re
from typing import Final

from nodeagent.mps.decision import ServerStatus

FOREGROUND: Final = "-f"
BACKGROUND: Final = "-d"
"""NVIDIA's manual page, nvidia-cuda-mps-control(1)."""

CONTROL_SOCKET: Final = "control"
"""The socket in the pipe directory that clients connect to."""

_NO_DAEMON: Final = "Cannot find MPS control daemon"
_LIMIT = re.compile(r"[0-9]+[KMG]")
_ENDS: Final = {
    1: "another daemon runs in its pipe directory, or its files cannot be made there",
    126: "the driver's program cannot be executed here, or its log cannot be written",
    127: "the driver's program cannot be executed here",
    244: "libcuda.so.1 cannot be loaded; give the container the driver's libraries by the chart's "
    "runtimeClassName or driverRoot",
}


def means_no_daemon(status: int, answer: str) -> bool:
    """Whether a command did not reach any daemon."""
    return status != 0 and _NO_DAEMON in answer


def end_of_daemon(status: int) -> str:
    """Why a daemon ended; negative is a signal's number, as in `subprocess`."""
    if status < 0:
        return f"signal {-status} ended it"
    why = _ENDS.get(status)
    return f"it ended with status {status}" + (f": {why}" if why else "")


def printed_limit(mib: int) -> str:
    """The text that the control program prints for a limit."""
    return f"{mib // 1024}G" if mib >= 1024 else f"{mib}M"


def parse_pids(answer: str) -> tuple[int, ...]:
    """The process IDs of a list; its other lines are messages."""
    return tuple(int(line) for line in answer.split("\n") if line.isascii() and line.isdigit())


def parse_limit(answer: str) -> str:
    """A limit as it is printed, "" where none is set or the server is not ready to say."""
    return answer if _LIMIT.fullmatch(answer) else ""


def parse_status(answer: str) -> ServerStatus:
    """A server's status; UNKNOWN for any other answer, such as `Unknown command`."""
    try:
        return ServerStatus(answer)
    except ValueError:
        return ServerStatus.UNKNOWN
