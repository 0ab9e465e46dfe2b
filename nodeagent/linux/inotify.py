"""The kernel's inotify on one directory, for the event loop: news at once, no polling between."""

import asyncio
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from nodeagent.errors import BadSettings, DirectoryVanished
from nodeagent.linux.libc import call

# <sys/inotify.h>
_CLOSE_WRITE: Final = 0x00000008
_MOVED_FROM: Final = 0x00000040
_MOVED_TO: Final = 0x00000080
_CREATE: Final = 0x00000100
_DELETE: Final = 0x00000200
_OVERFLOW: Final = 0x00004000
_IGNORED: Final = 0x00008000
_ONLY_DIRECTORY: Final = 0x01000000
_WATCHED: Final = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE

_HEADER: Final = struct.Struct("iIII")
_BUFFER: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Names:
    """The names in the directory that changed; `all` when the kernel lost count of them."""

    changed: frozenset[str] = frozenset()
    made: frozenset[str] = frozenset()
    all: bool = False

    def touches(self, name: str) -> bool:
        return self.all or name in self.changed

    def makes(self, name: str) -> bool:
        """Whether a file of that name may have been made, or moved there, anew."""
        return self.all or name in self.made


class DirectoryWatch:
    """Tells which names of one directory were made, written, moved or deleted.

    Events between two calls of `next` are kept and reported together. Raises BadSettings when the
    directory cannot be watched.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            self._fd = call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BadSettings(
                f"directory {directory} cannot be watched: {error.strerror}; other programs of the "
                "node use all inotify instances, so raise the sysctl fs.inotify.max_user_instances "
                "(to 1024, for example)"
            ) from error
        try:
            call("inotify_add_watch", self._fd, os.fsencode(directory), _WATCHED | _ONLY_DIRECTORY)
        except OSError as error:
            os.close(self._fd)
            remedy = "; raise the sysctl fs.inotify.max_user_watches"
            raise BadSettings(
                f"directory {directory} cannot be watched: {error.strerror}"
                f"{remedy if error.errno == errno.ENOSPC else ''}"
            ) from error

    def __enter__(self) -> "DirectoryWatch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    async def next(self) -> Names:
        """Waits for the next change; raises DirectoryVanished when there is nothing to watch."""
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(self._fd, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._fd)
        return self._read()

    def _read(self) -> Names:
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return Names()
        changed, made, lost_count = set(), set(), False
        for mask, name in _events(data):
            if mask & _IGNORED:
                raise DirectoryVanished(
                    f"directory {self._directory} was deleted; start anew once it is back"
                )
            lost_count |= bool(mask & _OVERFLOW)
            changed.add(name)
            if mask & (_CREATE | _MOVED_TO):
                made.add(name)
        return Names(frozenset(changed), frozenset(made), lost_count)


def _wake(readable: "asyncio.Future[None]") -> None:
    if not readable.done():
        readable.set_result(None)


def _events(data: bytes) -> Iterator[tuple[int, str]]:
    position = 0
    while position < len(data):
        _, mask, _, length = _HEADER.unpack_from(data, position)
        position += _HEADER.size
        yield mask, os.fsdecode(data[position : position + length].rstrip(b"\0"))
        position += length
