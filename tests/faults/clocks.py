"""Wall clocks of our programs that can be put forward and back, one by one.

A C library that is loaded before libc shifts what a program reads of the wall clock (`clock.c`);
the monotonic clock stays. So the programs are the real ones, and know nothing of it.
"""

import os
import sys
from pathlib import Path
from typing import Final

from tests.compiling import compile_c

SOURCE: Final = Path(__file__).with_name("clock.c")
_BYTES: Final = 8


def build(folder: Path) -> Path:
    """Compiles the library into the folder; its path."""
    library = folder / "clock.so"
    compile_c(SOURCE, library, ["-fPIC", "-shared"])
    return library


class WallClock:
    """Of one program, which has to be started with `environment`."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self._seconds = 0
        file.write_bytes(bytes(_BYTES))
        self.environment = {"LD_PRELOAD": os.fspath(library), "WALL_CLOCK_FILE": os.fspath(file)}

    def put_forward(self, seconds: int) -> None:
        """At once; fewer than 0 put it back."""
        self._seconds += seconds
        with self._file.open("r+b", buffering=0) as file:
            file.write(self._seconds.to_bytes(_BYTES, sys.byteorder, signed=True))
