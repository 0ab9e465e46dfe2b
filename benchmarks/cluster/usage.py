"""What processes use: CPU and memory as /proc has them, bytes to the API server as the kernel does.

TCP itself counts the bytes of each connection, TLS included; a connection is read every second, so
what one that ends sends in its last second is not seen.
"""

import asyncio
import os
import re
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_EVERY: Final = 1.0  # seconds
_REST: Final = 10.0  # times as long as a look took
_CONNECTION = re.compile(r"ESTAB\s+\d+\s+\d+\s+(\S+)\s+\S+\s+users:\(\(\"[^\"]*\",pid=(\d+)")
_SENT = re.compile(r"bytes_sent:(\d+)")
_RECEIVED = re.compile(r"bytes_received:(\d+)")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process since it began: seconds of CPU; MiB now and at most."""

    cpu: float = 0.0
    mib: float = 0.0
    peak_mib: float = 0.0


def usage_of(pid: int) -> Usage:
    """Raises OSError for a process that is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    return Usage(
        (int(fields[11]) + int(fields[12])) / _TICKS, _mib(status, "VmRSS"), _mib(status, "VmHWM")
    )


def _mib(status: str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


@dataclass(slots=True)
class Bytes:
    """Bytes between processes and an address, since the beginning; `by_pid` sums them up."""

    address: str
    _seen: dict[tuple[int, str], int] = field(default_factory=dict)

    def look(self) -> None:
        """Reads the connections that stand now."""
        command = ("ss", "-tinpHO", "dst", self.address)
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        for pid, local, count in connections(done.stdout):
            self._seen[pid, local] = count

    def by_pid(self) -> Counter[int]:
        total: Counter[int] = Counter()
        for (pid, _), count in self._seen.items():
            total[pid] += count
        return total


def connections(text: str) -> Iterator[tuple[int, str, int]]:
    """Process, local address and bytes in both directions, of each line of `ss -tinpHO`."""
    for line in text.splitlines():
        found = _CONNECTION.match(line)
        if found is not None:
            counts = (pattern.search(line) for pattern in (_SENT, _RECEIVED))
            yield int(found[2]), found[1], sum(int(count[1]) for count in counts if count)


@dataclass(frozen=True, slots=True)
class Reading:
    """The components at one moment."""

    usage: Mapping[str, Usage]
    bytes: Mapping[str, int]


class Watch:
    """Looks every second, or less often where that takes long; `read` says how far all has come."""

    def __init__(self, pids: Mapping[str, int], address: str) -> None:
        self._pids = pids
        self._bytes = Bytes(address)
        self.memory: dict[str, list[float]] = defaultdict(list)
        """MiB of each component, at each look."""

    async def run(self) -> NoReturn:
        while True:
            began = time.monotonic()
            await asyncio.to_thread(self._bytes.look)
            took = time.monotonic() - began  # of thousands of connections more than it is worth
            for name, usage in self._usages():
                self.memory[name].append(usage.mib)
            await asyncio.sleep(max(_EVERY, _REST * took))

    def read(self) -> Reading:
        self._bytes.look()
        total = self._bytes.by_pid()
        counts = {name: total[pid] for name, pid in self._pids.items()}
        return Reading(dict(self._usages()), counts)

    def _usages(self) -> Iterable[tuple[str, Usage]]:
        for name, pid in self._pids.items():
            try:
                yield name, usage_of(pid)
            except OSError:
                continue  # it has ended, which somebody else will say
