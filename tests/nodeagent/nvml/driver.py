"""The GPU driver as a test wants it: writes the file that the C library answers from."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.compiling import compile_c

SONAME = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("libnvidia-ml.c")

NO_PERMISSION = 4
NOT_SUPPORTED = 3
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
RESET_REQUIRED = 16
VERSION_MISMATCH = 18
UNKNOWN = 999


def build(folder: Path, without: Sequence[str] = ()) -> Path:
    """Compiles the library into a folder of its own, less some functions; its path."""
    library = folder / SONAME
    lacks = [f"-DWITHOUT_{function}" for function in without]
    flags = ["-fPIC", "-shared", f"-Wl,-soname,{SONAME}", *lacks, "-lpthread"]
    compile_c(SOURCE, library, flags)
    return library


class FakeDriver:
    """Each call takes effect at the next thing that anybody asks the library."""

    def __init__(self, file: Path, library: Path) -> None:
        self.file = file
        self.library = library
        self._lines: list[str] = []
        self._write()

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find this driver instead of the machine's."""
        folder = os.fspath(self.library.parent)
        return {"FAKE_NVML": os.fspath(self.file), "LD_LIBRARY_PATH": folder}

    def add(self, line: str) -> None:
        """One line of the file; libnvidia-ml.c lists the words."""
        self._lines.append(line)
        self._write()

    def drop(self, start: str) -> None:
        """Takes away the lines that start so."""
        self._lines = [line for line in self._lines if not line.startswith(start)]
        self._write()

    def gpu(self, uuid: str, **fields: object) -> None:
        """Adds a GPU, or replaces it in its place."""
        texts = [f"{key}={str(value).replace(' ', '_')}" for key, value in fields.items()]
        line = " ".join(("gpu", uuid, *texts))
        known = [n for n, old in enumerate(self._lines) if old.split()[:2] == ["gpu", uuid]]
        if known:
            self._lines[known[0]] = line
        else:
            self._lines.append(line)
        self._write()

    def process(self, uuid: str, pid: int, mib: int, kind: str = "mps") -> None:
        self.add(f"process {uuid} {pid} {mib} {kind}")

    def end_process(self, uuid: str, pid: int) -> None:
        self.drop(f"process {uuid} {pid} ")

    def xid(self, uuid: str, number: int) -> None:
        self.add(f"xid {uuid} {number}")

    def lose(self, uuid: str) -> None:
        self.add(f"lost {uuid}")

    def find(self, uuid: str) -> None:
        self.drop(f"lost {uuid}")

    def fail(self, function: str, code: int, uuid: str = "") -> None:
        self.add(f"fail {function} {code} {uuid}".rstrip())

    def hang(self, function: str) -> None:
        self.add(f"hang {function}")

    def recover(self) -> None:
        """Nothing fails or hangs any more."""
        self.drop("fail ")
        self.drop("hang ")

    def compute_mode(self, uuid: str) -> int | None:
        """The mode that somebody has set last, None when nobody has."""
        try:
            return int(self.file.with_name(f"{self.file.name}.mode-{uuid}").read_text())
        except FileNotFoundError:
            return None

    def registrations(self, uuid: str) -> int:
        """How often somebody has registered the GPU for events."""
        try:
            told = self.file.with_name(f"{self.file.name}.registered").read_text()
        except FileNotFoundError:
            return 0
        return told.split().count(uuid)

    def _write(self) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in self._lines))
        fresh.replace(self.file)
